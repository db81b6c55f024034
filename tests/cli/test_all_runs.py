"""All runs of one command resume together, and one folder has one writer."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from filtune.lightning_modules.locks import FolderLock

from tests.cli.harness import identical, result, run

COMMON = [
    "fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/loko",
    "--data.max_samples=24", "--data.max_val_samples=20", "--run.save_interval=6", "--trainer.log_every_n_steps=6",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip
COMMAND = [*COMMON, "--run.baselines=[adamw_1e-3, adamw, sgd]"]
"""Two of the baselines are of one class: their folders have the same name."""

ORDER = ["LoKO-seed0/version_0", "AdamW-seed0/version_0", "AdamW-seed0/version_1", "SGD-seed0/version_0"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    code, text = run(COMMAND, folder)
    assert code == 0, text
    return folder / "runs" / "digits-lenet5"


def killer(number: int, step: int) -> str:
    """Kill the process in its run of this number, at a step."""
    options = f"{{run: {number}, step: {step}}}"
    return f"--trainer.callbacks=[{{class_path: tests.cli.test_all_runs.KillIn, init_args: {options}}}]"


class KillIn(pl.Callback):
    """Kills its own process with SIGKILL in one of the runs of a command.

    Args:
        run: Number of the run.
        step: Global step.
    """

    begun = 0

    def __init__(self, run: int, step: int) -> None:
        self.run, self.step = run, step

    def on_fit_start(self, *_: Any) -> None:
        KillIn.begun += 1
        self.check(0)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.check(trainer.global_step)

    def on_train_end(self, *_: Any) -> None:
        self.check(-1)

    def check(self, step: int) -> None:
        if (KillIn.begun - 1, step) == (self.run, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


USUAL = [(2, -1)]
"""After the last step of a run in the middle; test_resume kills a baseline within its steps."""

MOMENTS = [(number, step) for number in range(4) for step in (0, 3, 15, -1)]


@pytest.mark.parametrize(
    ("number", "step"),
    [pytest.param(*each, marks=() if each in USUAL else pytest.mark.slow) for each in MOMENTS],
)
def test_killed_anywhere(tmp_path: Path, whole: Path, number: int, step: int) -> None:
    """Before its first checkpoint, after it, and after the last step before the summary."""
    assert run([*COMMAND, killer(number, step)], tmp_path)[0] == -9
    root = tmp_path / "runs" / "digits-lenet5"
    kept = {name: (root / name / "summary.json").read_bytes() for name in ORDER[:number]}
    code, text = run([*COMMAND, "--ckpt_path=last"], tmp_path)
    assert code == 0, text
    assert sorted(str(path.relative_to(root)) for path in root.glob("*/version_*")) == sorted(ORDER)
    assert {name: (root / name / "summary.json").read_bytes() for name in kept} == kept
    for name in ORDER[number:]:
        a, b = result(root / name), result(whole / name)
        assert a[0] == b[0], name
        assert identical(a[1]["state_dict"], b[1]["state_dict"])
        assert identical(a[1]["optimizer_states"], b[1]["optimizer_states"])


def test_a_damaged_baseline_is_refused_and_not_started_anew(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "runs" / "digits-lenet5")
    path = tmp_path / "runs" / "digits-lenet5" / ORDER[1] / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    code, text = run([*COMMAND, "--ckpt_path=last"], tmp_path)
    assert code == 2, text
    assert f"{ORDER[1]}/checkpoints/last.ckpt is damaged" in text.strip().splitlines()[-1]


def test_of_two_runs_of_one_name_the_one_of_the_configuration_resumes(tmp_path: Path) -> None:
    for p0 in ("0.1", "0.3"):
        assert run([*COMMON, f"--optimizer.p0={p0}"], tmp_path)[0] == 0
    root = tmp_path / "runs" / "digits-lenet5" / "LoKO-seed0"
    code, text = run([*COMMON, "--optimizer.p0=0.1", "--trainer.max_epochs=2", "--ckpt_path=last"], tmp_path)
    assert code == 0, text
    steps = [json.loads((root / name / "summary.json").read_text())["steps"] for name in ("version_0", "version_1")]
    assert steps == [48, 24]


def test_a_second_command_is_kept_out_of_the_folder(
    tmp_path: Path, whole: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderLock.acquire, "__defaults__", (0.1,))  # seconds to wait
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path / "runs" / "digits-lenet5")
    folder = tmp_path / "runs" / "digits-lenet5" / ORDER[0]
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.name != ".lock"}
    with FolderLock(folder):
        error = refused(*COMMAND, "--ckpt_path=last")
        assert "writes into this folder; wait for it, or start a new run without --ckpt_path" in error
        assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.name != ".lock"} == before
        code, text = run(COMMON, tmp_path)  # another folder
        assert code == 0, text
