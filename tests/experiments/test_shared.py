"""Commands that are killed, and share their work: real processes and locks, whose runs are made up.

That a run itself resumes after a kill is tested in test_killed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filtune.experiments import launchers, reproduce, streams, sweep
from filtune.experiments.estimate import Estimator
from filtune.experiments.records import Store

from tests.experiments.conftest import write_table
from tests.experiments.test_trials import PARTS, load, made_up

CONTEXT = multiprocessing.get_context("fork")
GRID = "--grid=optimizer.lr=" + ",".join(f"{k}e-{e}" for e in (1, 2, 3, 4) for k in (1, 2, 3))


@pytest.fixture(autouse=True)
def _made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take a moment; the keys of those that were completed are listed in the file ``made``."""

    def run(job: Any, store: Store, *_: Any) -> dict[str, Any]:
        time.sleep(0.1)
        found = made_up(job)
        store.write(found)
        with open(store.root / "made", "a") as file:
            file.write(f"{job.key}\n")
        return found

    monkeypatch.setattr(launchers, "run", run)
    monkeypatch.setattr(streams, "read_stream", lambda *_: {})
    monkeypatch.setattr(Estimator, "seconds", lambda *_: None)


def start(command: Callable[[list[str]], int], line: list[str]) -> Any:
    def quietly() -> None:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        os._exit(command(line))

    process = CONTEXT.Process(target=quietly)
    process.start()
    return process


def kill_at_random(processes: list[Any], again: Callable[[], Any], kills: int, root: Path) -> None:
    """Kill one of the processes after each further run or so, and start it again."""
    rng = random.Random(0)
    for number in range(kills):
        until = time.monotonic() + 60
        while len(made(root)) < 2 * number + 1 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        victim = rng.randrange(len(processes))
        os.kill(processes[victim].pid, signal.SIGKILL)
        processes[victim].join()
        processes[victim] = again()


def made(root: Path) -> list[str]:
    path = root / "made"
    return path.read_text().split() if path.is_file() else []


@pytest.mark.slow  # half a minute of starting again; test_trials interrupts one in one process
def test_a_sweep_killed_five_times_and_shared_by_two_processes(tmp_path: Path) -> None:
    line = [*PARTS, GRID, "--seeds=2"]
    assert sweep.main([*line, f"--root={tmp_path / 'whole'}", "--jobs=8"]) == 0
    root = tmp_path / "shared"

    def again() -> Any:
        return start(sweep.main, [*line, f"--root={root}"])

    processes = [again(), again()]
    kill_at_random(processes, again, 5, root)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (root / "sweep.yaml").read_text() == (tmp_path / "whole" / "sweep.yaml").read_text()
    assert sorted(made(root)) == sorted(set(made(root)))
    assert {path.name for path in (root / "records").iterdir()} == {
        path.name for path in (tmp_path / "whole" / "records").iterdir()
    }
    trials = load(root).trials
    assert [trial.params for trial in trials] == [trial.params for trial in load(tmp_path / "whole").trials]
    assert len({str(trial.params) for trial in trials}) == len(trials) == 12
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    manifests = [Store(place).read_manifest("sweep") for place in (root, tmp_path / "whole")]
    assert manifests[0] == manifests[1]


def test_a_table_of_thirty_cells_on_four_slots_killed_and_resumed(tmp_path: Path) -> None:
    grid = {"optimizer.lr": [float(f"{k}e-{e}") for e in (1, 2, 3) for k in range(1, 6)]}
    rows = [{"name": name, "title": name, "optimizer": name, "grid": grid} for name in ("adamw_1e-3", "sgd")]
    table, root = write_table(tmp_path, rows=rows), tmp_path / "root"

    def again() -> Any:
        return start(reproduce.main, [table, f"--root={root}", "--jobs=4", "--threads=1"])

    processes = [again()]
    kill_at_random(processes, again, 3, root)
    processes[0].join(60)
    assert processes[0].exitcode == 0
    assert sorted(made(root)) == sorted(set(made(root)))
    assert len(list((root / "records").iterdir())) == 30
