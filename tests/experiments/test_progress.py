"""What a long command says while it runs, and a plan before it."""

from __future__ import annotations

import io
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filtune.experiments import plan, runner
from filtune.experiments.launchers import Local
from filtune.experiments.records import Store
from filtune.experiments.runner import Outcome, Runner
from filtune.experiments.runs import Job
from rich.console import Console
from rich.progress import Progress


def test_progress_in_a_file_is_a_line_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 25))  # every look at the clock is 25 seconds after the one before
    monkeypatch.setattr(runner.time, "monotonic", lambda: float(next(clock)))
    file = io.StringIO()
    console = Console(file=file)
    made = Runner(Local(Store(tmp_path), 1, 1), console)
    bar = Progress(console=console)
    for _ in range(6):
        made._show(bar, bar.add_task(""), {}, [], Outcome())
    lines = file.getvalue().splitlines()
    assert len(lines) in (2, 3)
    assert all(line.startswith("0 of 0 runs, ") for line in lines)


@pytest.mark.parametrize(("seconds", "is_long"), [(60.0, False), (8 * 3600.0, True)])
def test_a_long_plan_says_how_it_becomes_shorter(seconds: float, is_long: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(plan, "LONG", 3600.0)
    file = io.StringIO()
    plan.print_total(Console(file=file, width=200), 3, "4 runs of 5 cells", seconds, seconds, "")
    assert file.getvalue().startswith("3 of 4 runs of 5 cells to be made: about ")
    assert ("shorter: --seeds 1" in file.getvalue()) == is_long


def test_a_run_that_waits_in_the_queue_of_a_cluster_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two were submitted 30 seconds ago, one at a time runs; each takes 40."""
    monkeypatch.setattr(runner.time, "monotonic", lambda: 1000.0)
    file = io.StringIO()
    console = Console(file=file)
    made = Runner(Local(Store(tmp_path), 1, 1), console)
    monkeypatch.setattr(made, "estimator", SimpleNamespace(seconds=lambda *_: 40.0))
    made._started = {"a": 970.0, "b": 970.0}
    made._said = 0.0
    bar = Progress(console=console)
    running = {key: Job(key, {}, 0, "digits", "lenet5", key) for key in "ab"}
    made._show(bar, bar.add_task(""), running, [], Outcome())
    assert file.getvalue().startswith("0 of 2 runs, 50 s left  a")


def test_runs_that_have_a_record_are_not_among_those_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finished run follows the one that is made, and is not looked at before."""
    first, finished = (Job(key, {}, 0, "digits", "lenet5", key) for key in "ab")
    record = {"status": "finished"}
    launcher = Local(Store(tmp_path), 1, 1)
    made = Runner(launcher, Console(file=io.StringIO()))
    done: Future[None] = Future()
    done.set_result(None)
    monkeypatch.setattr(launcher, "submit", lambda jobs: [done])
    monkeypatch.setattr(launcher, "result", lambda handle: record)
    monkeypatch.setattr(made, "_streams", SimpleNamespace(check_unchanged=lambda: None, prepared=lambda job: job))
    monkeypatch.setattr(made, "_check", lambda jobs: {job.key: record for job in jobs if job.key == "b"})
    monkeypatch.setattr(made, "estimator", SimpleNamespace(learn=lambda record: None))
    shown: list[list[Job]] = []
    monkeypatch.setattr(made, "_show", lambda progress, bar, running, left, outcome: shown.append(left))
    outcome = made.execute(runner.Listed([first, finished]))
    assert outcome.records.keys() == {"a", "b"}
    assert outcome.found == 1
    assert shown == [[]]
