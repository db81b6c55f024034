"""A command that was killed with SIGKILL, again and again, ends like one that was not, but for the times."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filtune.experiments import runs
from filtune.experiments.records import Store

from tests.experiments.conftest import write_table

ROOT = Path(__file__).resolve().parents[2]
LENGTH = {
    "data.max_samples": 1200,
    "data.max_val_samples": 50,
    "run.save_interval": 30,
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
    """Records by key without what is time: seconds, dates, and the memory at the time."""
    found = {}
    for path in (root / "records").glob("*.json"):
        record = json.loads(path.read_text())
        del record["times"], record["peak_memory_bytes"]
        found[path.name] = record
    return found


def children() -> list[str]:
    """Command lines of the runs that are under way."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if " -m filtune.experiments.worker fit " in line]


def is_running(root: Path) -> bool:
    return any(str(root) in line for line in children())


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
    before = time.monotonic()
    assert start(table, whole).wait() == 0
    took, rng = time.monotonic() - before, random.Random(seed)
    for _ in range(3):
        command = start(table, killed)
        # the blow falls anywhere, but at a run, and before all is done: three are less than the whole takes
        before = time.monotonic()
        while not is_running(killed) and time.monotonic() - before < 120:
            assert command.poll() is None
            time.sleep(0.1)
        time.sleep(rng.uniform(0.02, 0.3) * took)
        assert command.poll() is None
        command.send_signal(signal.SIGKILL)
        command.wait()
        before = time.monotonic()
        while is_running(killed) and time.monotonic() - before < 60:
            time.sleep(0.1)
        assert not is_running(killed), "a run outlived the command that started it"
    assert start(table, killed).wait() == 0
    assert records(killed) == records(whole)
    assert len(records(whole)) == 3
    assert not list((killed / "records").glob(".*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes")
def test_a_run_ends_with_the_command_that_started_it(tmp_path: Path) -> None:
    table = write_table(tmp_path, set={**LENGTH, "trainer.max_epochs": 1000})
    command = start(table, tmp_path / "root")
    try:
        before = time.monotonic()
        while not is_running(tmp_path / "root"):
            assert command.poll() is None
            assert time.monotonic() - before < 120
            time.sleep(0.1)
    finally:
        command.kill()
        command.wait()
    before = time.monotonic()
    while is_running(tmp_path / "root") and time.monotonic() - before < 60:
        time.sleep(0.1)
    assert not is_running(tmp_path / "root")


def test_a_run_that_was_told_to_stop_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with status 0, for it was asked to, and without a summary."""
    monkeypatch.setattr(sys, "executable", "true")
    job, store = runs.Job("key", {}, 0, "digits", "lenet5", "a run"), Store(tmp_path)
    with pytest.raises(runs.RunError, match="was stopped before its end"):
        runs.run(job, store, threads=1)
    assert not store.path("key").exists()
