"""A kill at each moment at which a file of a run is written: --ckpt_path last completes the run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import _finish, _run, _start, identical, only_run, result, run

FIT = [
    "fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/loko",
    "--data.max_samples=12", "--data.max_val_samples=6", "--run.save_interval=5", "--trainer.log_every_n_steps=2",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip
FILES = {
    "config.yaml", "summary.json", "predictions.json", "events.json", "last.ckpt", ".lock", "hparams.yaml",
}  # fmt: skip


def _killed(args: list[str], folder: str, output: Any, name: str, count: int, numbers: list[int]) -> None:
    """Run a command that gets signals in its ``count``-th call of a function of ``os``, before what that does."""
    calls, function = iter(range(count)), getattr(os, name)

    def last(*given: Any) -> Any:
        while next(calls, None) is None and numbers:
            os.kill(os.getpid(), numbers.pop())
        return function(*given)

    setattr(os, name, last)
    _run(args, folder, output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "numbers", "status"),
    [
        ("replace", [signal.SIGKILL], -9),
        ("fsync", [signal.SIGKILL], -9),
        ("replace", [signal.SIGTERM], 143),
        ("replace", [signal.SIGHUP, signal.SIGHUP], 129),
    ],
)
def test_stopped_at_each_write(tmp_path: Path, name: str, numbers: list[int], status: int) -> None:
    """Before each rename of a whole file, and before each sync of one that may be half written."""
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run(FIT, whole)[0] == 0
    expected, killed = result(only_run(whole)), 0
    predictions = (only_run(whole) / "predictions.json").read_bytes()
    for count in range(40):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        code, text = _finish(*_start(_killed, FIT, folder, name, count, numbers))
        if code == 0:
            break
        assert code == status, text
        killed += 1
        code, text = run([*FIT, "--ckpt_path=last"], folder)
        assert code == 0, (count, text)
        summary, checkpoint = result(only_run(folder))
        assert summary == expected[0], count
        for part in ("state_dict", "optimizer_states", "global_step"):
            assert identical(checkpoint[part], expected[1][part]), (count, part)
        left = {path.name for path in only_run(folder).rglob("*") if path.is_file() and "tfevents" not in path.name}
        assert left == FILES, count
        assert (only_run(folder) / "predictions.json").read_bytes() == predictions, count
    assert killed >= 5  # the configuration, three checkpoints and the summary
