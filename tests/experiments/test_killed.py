"""A command that was killed with SIGKILL, again and again, ends like one that was not, but for the times."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filtune.experiments import runs
from filtune.experiments.composition import compose
from filtune.experiments.records import Store

from tests.experiments.conftest import write_table

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300
"""Seconds that a process may take to start or to end on a loaded machine."""
LENGTH = {
    "data.max_samples": 600,
    "data.max_val_samples": 50,
    "run.save_interval": 20,
    "trainer.log_every_n_steps": 20,
}


def start(table: str, root: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "filtune",
        "reproduce",
        table,
        "--root",
        str(root),
        "--jobs",
        "2",
        "--threads",
        "1",
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


def records(root: Path) -> dict[str, Any]:
    """Records by key without what is of the time: seconds, dates, the memory, and the commit of a clone."""
    found = {}
    for path in (root / "records").glob("*.json"):
        record = json.loads(path.read_text())
        del record["times"], record["peak_memory_bytes"], record["commit"]
        found[path.name] = record
    return found


def children() -> list[str]:
    """Command lines of the runs that are under way."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if " -m filtune.experiments.worker fit " in line]


def is_running(root: Path) -> bool:
    return any(str(root) in line for line in children())


def checkpoints(root: Path) -> set[tuple[Path, int]]:
    """The runs' last checkpoints, each with the time it was written; one may be replaced while it is looked at."""
    found = set()
    for path in root.rglob("last.ckpt"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path, path.stat().st_mtime_ns))
    return found


def wait_for_a_run(is_alive: Callable[[], bool], root: Path) -> None:
    before = time.monotonic()
    while not is_running(root):
        assert is_alive()
        assert time.monotonic() - before < PATIENCE
        time.sleep(0.1)


def ended(root: Path) -> bool:
    """Whether all runs end."""
    before = time.monotonic()
    while is_running(root) and time.monotonic() - before < PATIENCE:
        time.sleep(0.1)
    return not is_running(root)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_three_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    rows = [
        {"name": "loko", "title": "LoKO", "optimizer": "loko"},
        {"name": "adamw", "title": "AdamW", "optimizer": "adamw"},
        {"name": "ring", "title": "RING", "optimizer": "ring", "set": {"data.batch_size": 4}},
    ]
    table = write_table(tmp_path, rows=rows, set={**LENGTH, "trainer.val_check_interval": 0.25})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(table, whole).wait() == 0
    rng = random.Random(seed)
    for kill in range(3):
        command = start(table, killed)
        wait_for_a_run(lambda command=command: command.poll() is None, killed)
        # the blow falls anywhere, but at a run, and before all is done, however fast the machine is just now
        old, wanted = checkpoints(killed), rng.randint(1, 15)
        written: set[tuple[Path, int]] = set()
        while len(written) < wanted and len(list(killed.rglob("summary.json"))) < min(kill + 1, 2):
            assert command.poll() is None
            written |= checkpoints(killed) - old
            time.sleep(0.05)
        if not list(killed.rglob("summary.json")):
            time.sleep(rng.uniform(0, 0.3))
        command.send_signal(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
        assert ended(killed), "a run outlived the command that started it"
    assert start(table, killed).wait() == 0
    assert records(killed) == records(whole)
    assert len(records(whole)) == 3
    assert not list((killed / "records").glob(".*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes")
def test_a_run_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """The run is a process of its own, which is importing when the one above is killed."""
    parts = ["trainer/cpu", "task/digits", "backbone/lenet5", "optimizer/loko"]
    job = runs.Job("key", compose(parts, {**LENGTH, "trainer.max_epochs": 1000}), 0, "digits", "lenet5", "a run")
    above = multiprocessing.get_context("fork").Process(target=runs.run, args=(job, Store(tmp_path / "root"), 1))
    above.start()
    try:
        wait_for_a_run(above.is_alive, tmp_path / "root")
    finally:
        above.kill()
        above.join()
    assert ended(tmp_path / "root")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes")
def test_a_run_ends_with_the_command_that_started_it(tmp_path: Path) -> None:
    table = write_table(tmp_path, set={**LENGTH, "trainer.max_epochs": 1000})
    command = start(table, tmp_path / "root")
    try:
        wait_for_a_run(lambda: command.poll() is None, tmp_path / "root")
    finally:
        command.kill()
        command.wait()
    assert ended(tmp_path / "root")


def test_a_run_that_was_told_to_stop_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with status 0, for it was asked to, and without a summary."""
    monkeypatch.setattr(sys, "executable", "true")
    job, store = runs.Job("key", {}, 0, "digits", "lenet5", "a run"), Store(tmp_path)
    with pytest.raises(runs.RunError, match="was stopped before its end"):
        runs.run(job, store, threads=1)
    assert not store.path("key").exists()
