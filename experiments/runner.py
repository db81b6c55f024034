"""Many runs: those without a record are run, several at a time, with a bar and an estimate of the time left."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filtune.lightning_modules.atomic import DiskFull, reason_full
from filtune.lightning_modules.signals import Stopped
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .composition import lookup
from .escaping import plain
from .estimate import Estimator, format_duration
from .records import Store
from .runs import Job, RunError, run
from .streams import Streams, UnreadableData, check_finished

GRACE = 10.0
"""Seconds that runs have to save a checkpoint when the command is stopped."""


@dataclass
class Outcome:
    """The results of runs.

    Attributes:
        records: Records by key, of what was there and what was run.
        found: How many of them were there.
        failures: Why a run failed, by key.
    """

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    found: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        """Add the results of other runs."""
        self.records |= other.records
        self.found += other.found
        self.failures |= other.failures


class Runner:
    """Runs jobs, several at a time.

    Args:
        store: Where records and run folders are.
        workers: Runs at a time.
        threads: Threads of each.
        console: Where progress is printed.
        resume_changed: Whether to keep or resume runs although data or settings have changed since.
    """

    def __init__(
        self, store: Store, workers: int, threads: int, console: Console, resume_changed: bool = False
    ) -> None:
        self.store, self.workers, self.threads, self.console = store, workers, threads, console
        self.resume_changed, self._streams = resume_changed, Streams()
        self.estimator = Estimator()
        self._processes: dict[str, subprocess.Popen] = {}
        self._stopped = False

    def execute(self, jobs: list[Job]) -> Outcome:
        """Run what has no record yet, after a check that the data of what has one is still the same.

        Raises:
            ValueError: If the data of a finished run has changed; names what differs.
            DiskFull: If there is no space left; the other runs are stopped.
        """
        if jobs:
            self._streams.check_unchanged()
        outcome, missing, finished = Outcome(), [], []
        for job in {job.key: self._with_switch(job) for job in jobs}.values():
            record = self.store.read(job.key)
            if record is None:
                missing.append(job)
            else:
                finished.append((job, record))
                outcome.records[job.key] = record
                self.estimator.learn(record)
        outcome.found = len(outcome.records)
        notes = [f"{path} is half written: its run is made again" for path in self.store.broken]
        notes += check_finished(finished, self._streams, self.store)
        for note in notes:
            self.console.print(plain(note), markup=False, highlight=False, soft_wrap=True)
        ready = []
        for job in missing:
            try:
                ready.append(self._streams.prepared(job))
            except UnreadableData as error:
                self._fail(job, error, outcome)
        if ready:
            self._run_all(ready, outcome)
        return outcome

    def _with_switch(self, job: Job) -> Job:
        allowed = self.resume_changed or lookup(job.config, "run.resume_changed") is True
        return replace(job, resume_changed=allowed)

    def _run_all(self, jobs: list[Job], outcome: Outcome) -> None:
        columns = (BarColumn(), TextColumn("{task.description}", markup=False))
        progress = Progress(*columns, console=self.console, refresh_per_second=2)
        with ThreadPoolExecutor(self.workers) as pool, progress as bar:
            task = bar.add_task("", total=1.0)
            started: dict[str, float] = {}
            pending = {pool.submit(self._one, job, started): job for job in jobs}
            total = len(pending)
            try:
                while pending:
                    finished, _ = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                    for future in finished:
                        self._settle(future, pending.pop(future), outcome)
                    self._show(bar, task, list(pending.values()), started, total)
            except BaseException as error:
                self._stop(pending)
                if isinstance(error, KeyboardInterrupt | Stopped):
                    self.console.print("stopped; the same command goes on where it was")
                raise

    def _one(self, job: Job, started: dict[str, float]) -> dict[str, Any]:
        if self._stopped:
            raise RunError("stopped")
        started[job.key] = time.monotonic()

        def register(process: subprocess.Popen) -> None:
            self._processes[job.key] = process
            if self._stopped:
                process.terminate()

        return run(job, self.store, self.threads, register)

    def _settle(self, future: Future, job: Job, outcome: Outcome) -> None:
        try:
            record = future.result()
        except (RunError, OSError) as error:
            if reason := reason_full(error):
                raise DiskFull(
                    f"--root {self.store.root}: the disk is full ({reason}); nothing that was finished is lost: make "
                    "room and repeat the command"
                ) from error
            self._fail(job, error, outcome)
            return
        outcome.records[job.key] = record
        self.estimator.learn(record)
        if record["status"] == "diverged":
            said = plain(f"{job.label}: diverged ({record['reason']})")
            self.console.print(said, markup=False, highlight=False, soft_wrap=True)

    def _fail(self, job: Job, error: Exception, outcome: Outcome) -> None:
        outcome.failures[job.key] = str(error)
        said = plain(f"{job.label}: {error}")
        self.console.print(said, style="red", markup=False, highlight=False, soft_wrap=True)

    def _show(self, bar: Progress, task: Any, left: list[Job], started: dict[str, float], total: int) -> None:
        """Update the bar with the time that unfinished runs take, spread over the workers."""
        now, remaining, running = time.monotonic(), 0.0, []
        known = True
        for job in left:
            seconds = self.estimator.seconds(job.config, job.task, job.backbone)
            known = known and seconds is not None
            spent = now - started[job.key] if job.key in started else 0.0
            remaining += max((seconds or 0.0) - spent, 0.05 * (seconds or 0.0))
            if job.key in started:
                running.append(job.label)
        words = (
            f"{total - len(left)} of {total} runs, {format_duration(remaining / self.workers) if known else '?'} left"
        )
        bar.update(task, completed=1 - len(left) / total, description=f"{words}  {', '.join(running[: self.workers])}")

    def _stop(self, pending: dict[Future, Job]) -> None:
        self._stopped = True
        for future in pending:
            future.cancel()
        running = [process for process in list(self._processes.values()) if process.poll() is None]
        for process in running:
            process.terminate()  # it saves a checkpoint after its step
        until = time.monotonic() + GRACE
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def shown_command(name: str, path: Path) -> str:
    """Return a command as it can be typed, in one line."""
    return plain(f"{name} {shlex.quote(str(path))}")


def add_run_options(parser: argparse.ArgumentParser, root: str) -> None:
    """Add the options of commands that make runs: where they are kept, and how many run at a time."""
    parser.add_argument(
        "--local",
        action="append",
        default=[],
        metavar="ID=FOLDER",
        help="where data or weights of a hub id lie on this machine, such as nyu-mll/glue=data/glue; may be repeated",
    )
    parser.add_argument("--root", type=Path, default=Path(root), help=f"where runs are kept (default: {root})")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--threads", type=int, help="threads of each run (default: all cores, shared out)")
    parser.add_argument(
        "--run.resume_changed",
        dest="resume_changed",
        choices=("true", "false"),
        nargs="?",
        const="true",
        default="false",
        help="keep finished runs and resume interrupted ones although their data has changed since",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be run, and run nothing")


def read_folders(pairs: list[str]) -> dict[str, str]:
    """Return folders by hub id.

    Raises:
        ValueError: If one is not ID=FOLDER, or there is no such folder.
    """
    folders = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals:
            raise ValueError(f"--local {pair}: is to be ID=FOLDER, such as --local nyu-mll/glue=data/glue")
        if not Path(folder).expanduser().is_dir():
            raise ValueError(f"--local {pair}: there is no folder {folder}")
        folders[name] = folder
    return folders


def read_workers(options: argparse.Namespace) -> tuple[int, int]:
    """Return the number of runs at a time, and the threads of each.

    Raises:
        ValueError: If one is not positive.
    """
    threads = (os.cpu_count() or 1) // max(options.jobs, 1) if options.threads is None else options.threads
    for name, value in (("jobs", options.jobs), ("threads", max(threads, 1) if options.threads is None else threads)):
        if value < 1:
            raise ValueError(f"--{name} {value}: must be at least 1")
    return options.jobs, max(threads, 1)
