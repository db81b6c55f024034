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


def test_a_folder_above_the_only_run_stands_for_it_and_several_runs_are_named(tmp_path: Path) -> None:
    """As ``runs/digits-lenet5/Filtune-seed0``, whose run is ``version_0``."""
    place = tmp_path / "Filtune-seed0"
    for version in (0, 1, 2):
        checkpoint = place / f"version_{version}" / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        if version == 0:
            assert find_checkpoint(place) == find_checkpoint(tmp_path) == checkpoint
    assert find_checkpoint(place / "version_1") == place / "version_1" / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError) as refused:
        find_checkpoint(place)
    said = f"{place} has several runs: {place / 'version_0'}, {place / 'version_1'} and 1 more; name one of them"
    assert str(refused.value) == f"ckpt_path: {said}"
