"""A finished run in a folder of its own, resumed within the process of the tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filtune.lightning_modules.event_files import EVENTS
from filtune.lightning_modules.resume import keep_baseline
from filtune.lightning_modules.run_files import write_job

from filtune.cli import main
from tests.cli.harness import only_run

FIT = [
    "fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/sgd",
    "--data.max_samples=12", "--data.max_val_samples=6", "--run.save_interval=4", "--trainer.log_every_n_steps=2",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip
RESUME = [*FIT, "--trainer.max_epochs=2", "--ckpt_path=last"]
FILES = (
    "config.yaml", "summary.json", "predictions.json", "events.json", EVENTS, "baselines.json", "slurm_job",
    "checkpoints/best.ckpt",
)  # fmt: skip
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with every kind of file that a run may have."""
    root = tmp_path_factory.mktemp("finished")
    main([*FIT, f"--run.root={root / 'runs'}"])
    folder = only_run(root)
    write_job(folder, "4711_2")
    shutil.copy(folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best.ckpt")
    keep_baseline(folder, "adamw", folder.parents[1] / "AdamW-seed0" / "version_0")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in runs/ of the current folder."""
    shutil.copytree(finished.parents[2], tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return only_run(Path("runs"))
