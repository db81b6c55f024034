"""A run's folder stands for its last checkpoint, and validation takes the run's own configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from filtune.lightning_modules.runs import CheckpointError, find_checkpoint

from filtune.cli import main

FIT = (
    "fit --config trainer/cpu --config task/digits --config backbone/lenet5 --config optimizer/adamw_1e-3 "
    "--trainer.enable_progress_bar false --data.max_samples 20 --data.max_val_samples 20 --run.root runs"
)


def test_validate_and_export_take_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(FIT.split())
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    run = checkpoint.parents[1]
    capsys.readouterr()
    printed = []
    for path in (run, run / "checkpoints", checkpoint):
        main(["validate", "--trainer.enable_progress_bar=false", f"--ckpt_path={path}"])
        printed.append([line for line in capsys.readouterr().out.splitlines() if "val " in line])
    assert printed[0] == printed[1] == printed[2]
    assert len(printed[0]) == 1
    main(["export", f"--ckpt_path={run}", "--to=model"])
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} has no checkpoints/last.ckpt"):
        find_checkpoint(tmp_path)
