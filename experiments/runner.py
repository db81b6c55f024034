"""Many runs: those without a record are made, several at a time, with a bar and an estimate of the time left."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from filtune.lightning_modules.atomic import DiskFull, reason_full
from filtune.lightning_modules.signals import Stopped
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from filtune.suggestions import suggest

from .composition import lookup
from .escaping import plain
from .estimate import Estimator, format_duration
from .launchers import LAUNCHERS, Launcher, Local, Slurm, read_options
from .records import Record, Store
from .runs import Job, RunDied, RunError
from .streams import Streams, UnreadableData, check_finished

PERIOD = 60.0
"""Seconds between two lines of progress where the output is no terminal."""


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


class JobSource(ABC):
    """Runs that become known one after another, such as those of a search."""

    @abstractmethod
    def known(self) -> list[Job]:
        """Return the runs that are known already, to be checked before the first is made."""

    @abstractmethod
    def take(self) -> Job | None:
        """Return the next run; None if there is none at present."""

    @abstractmethod
    def left(self) -> list[Job]:
        """Return the runs that were not taken yet, or as many others that take as long; empty if none will follow."""

    def settle(self, job: Job, record: Record | None) -> None:  # noqa: B027 a list needs no outcome
        """Take the record of a run, None if it failed or was stopped."""

    def stopped(self, job: Job) -> bool:
        """Return whether a run that is under way is to be stopped; asked every second."""
        return False


class Listed(JobSource):
    """A source of runs that are all known.

    Args:
        jobs: The runs, of which those of equal keys are one.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._known = list({job.key: job for job in jobs}.values())
        self._left = deque(self._known)

    def known(self) -> list[Job]:
        """Return all runs."""
        return self._known

    def take(self) -> Job | None:
        """Return the next run."""
        return self._left.popleft() if self._left else None

    def left(self) -> list[Job]:
        """Return the runs that were not taken yet."""
        return list(self._left)


class Runner:
    """Runner of several runs at a time by a launcher; one whose process or job dies is resumed once.

    Args:
        launcher: Where runs are made, and the store of their records.
        console: Where progress is printed.
        resume_changed: Whether to keep or resume runs although data or settings have changed since.
    """

    def __init__(self, launcher: Launcher, console: Console, resume_changed: bool = False) -> None:
        self.launcher, self.store, self.console = launcher, launcher.store, console
        self.resume_changed, self._streams = resume_changed, Streams()
        self._started: dict[str, float] = {}
        self._said = time.monotonic()
        self._waiting: deque[Job] = deque()
        self._resumed: set[str] = set()
        self._stopped: set[str] = set()

    @cached_property
    def estimator(self) -> Estimator:
        """The estimator of the time left, from all runs of the root, and from each that is made."""
        return Estimator(self.store.read_all())

    def execute(self, source: JobSource) -> Outcome:
        """Make the runs that have no record yet, after a check that the data of what has one is still the same.

        Raises:
            ValueError: If the data of a finished run has changed; names what differs.
            DiskFull: If there is no space left; the other runs are stopped.
        """
        known = source.known()
        if known:
            self._streams.check_unchanged()
        outcome, checked = Outcome(), self._check(known)
        progress = Progress(BarColumn(), TextColumn("{task.description}", markup=False), console=self.console)
        bar, running = progress.add_task("", total=1.0), dict[Any, Job]()
        try:
            while self._fill(source, running, checked, outcome) or source.left():
                if self.console.is_terminal:
                    progress.start()
                self._wait(running)
                for handle in [handle for handle in running if handle.done()]:
                    self._settle(handle, running, source, outcome)
                for handle, job in running.items():
                    if job.key not in self._stopped and source.stopped(job):
                        self._stopped.add(job.key)
                        self.launcher.cancel(job, handle)
                left = [job for job in source.left() if job.key not in checked]  # those with a record take no time
                self._show(progress, bar, running, [*self._waiting, *left], outcome)
        except BaseException as error:
            self.launcher.stop(running)
            if isinstance(error, KeyboardInterrupt | Stopped):
                self.console.print("stopped; the same command goes on where it was")
            raise
        finally:
            if progress.live.is_started:
                progress.stop()
        return outcome

    def _check(self, jobs: Iterable[Job]) -> dict[str, Record]:
        """Return the records of finished runs by key, after a check of their data, and print what it finds."""
        known = [self._with_switch(job) for job in jobs]
        finished = [(job, record) for job in known if (record := self.store.read(job.key)) is not None]
        notes = [f"{path} is half written: its run is made again" for path in self.store.broken]
        self.store.broken.clear()
        for note in notes + check_finished(finished, self._streams, self.store):
            self._say(note)
        return {job.key: record for job, record in finished}

    def _with_switch(self, job: Job) -> Job:
        allowed = self.resume_changed or lookup(job.config, "run.resume_changed") is True
        return replace(job, resume_changed=allowed)

    def _fill(self, source: JobSource, running: dict[Any, Job], checked: dict[str, Record], outcome: Outcome) -> bool:
        """Start runs, as many as the launcher has room for; whether any is under way."""
        most = self.launcher.queued if isinstance(source, Listed) else self.launcher.workers
        while len(running) + len(self._waiting) < most and (taken := source.take()) is not None:
            job = self._with_switch(taken)
            record = checked.pop(job.key, None) or self._check([job]).get(job.key)
            if record is not None:
                outcome.found += 1
                self._keep(job, record, source, outcome)
                continue
            if (earlier := self.launcher.earlier(job)) is not None:
                running[earlier] = job
                continue
            try:
                self._waiting.append(self._streams.prepared(job))
            except UnreadableData as error:
                self._fail(job, error, source, outcome)
        ready = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.launcher.room(len(running))))]
        if ready:
            running |= dict(zip(self.launcher.submit(ready), ready, strict=True))
            self._started |= dict.fromkeys((job.key for job in ready), time.monotonic())
        return bool(running)

    def _wait(self, running: dict[Any, Job]) -> None:
        if running and all(isinstance(handle, Future) for handle in running):
            wait(running, timeout=1, return_when=FIRST_COMPLETED)
        else:
            time.sleep(1)

    def _settle(self, handle: Any, running: dict[Any, Job], source: JobSource, outcome: Outcome) -> None:
        job = running.pop(handle)
        if job.key in self._stopped:
            source.settle(job, None)
            return
        try:
            record = self.launcher.result(handle)
        except (RunError, OSError) as error:
            if reason := reason_full(error):
                raise DiskFull(
                    f"--root {self.store.root}: the disk is full ({reason}); nothing that was finished is lost: make "
                    "room and repeat the command"
                ) from error
            if isinstance(error, RunDied) and job.key not in self._resumed:
                self._resumed.add(job.key)
                self._say(f"{job.label}: {error}; it is resumed once")
                self._waiting.appendleft(job)
                return
            self._fail(job, error, source, outcome)
            return
        if record["status"] == "diverged":
            self._say(f"{job.label}: diverged ({record['reason']})")
        self.estimator.learn(record)
        self._keep(job, record, source, outcome)

    def _keep(self, job: Job, record: Record, source: JobSource, outcome: Outcome) -> None:
        outcome.records[job.key] = record
        source.settle(job, record)

    def _fail(self, job: Job, error: Exception, source: JobSource, outcome: Outcome) -> None:
        outcome.failures[job.key] = str(error)
        self._say(f"{job.label}: {error}", style="red")
        source.settle(job, None)

    def _say(self, words: str, style: str | None = None) -> None:
        self.console.print(plain(words), style=style, markup=False, highlight=False, soft_wrap=True)

    def _show(self, progress: Progress, bar: Any, running: dict[Any, Job], left: list[Job], outcome: Outcome) -> None:
        """Update the bar with the time that unfinished runs take, spread over the workers."""
        now, remaining, known = time.monotonic(), 0.0, True
        for place, job in enumerate([*running.values(), *left]):
            seconds = self.estimator.seconds(job.config, job.task, job.backbone)
            known = known and seconds is not None
            waits = place >= self.launcher.workers  # in the queue of a cluster
            spent = 0.0 if waits else now - self._started.get(job.key, now)
            remaining += max((seconds or 0.0) - spent, 0.05 * (seconds or 0.0))
        done = len(outcome.records) + len(outcome.failures) + len(self._stopped) - outcome.found
        total = done + len(running) + len(left)
        time_left = format_duration(remaining / self.launcher.workers) if known else "?"
        words = f"{done} of {total} runs, {time_left} left"
        labels = ", ".join([job.label for job in running.values()][: self.launcher.workers])
        labels = labels or "waiting for the runs of another process"
        progress.update(bar, completed=done / max(total, 1), description=f"{words}  {labels}")
        if not self.console.is_terminal and now - self._said >= PERIOD:  # a file or a pipe
            self._said = now
            self.console.print(f"{words}  {labels}", markup=False, highlight=False, soft_wrap=True)


def shown_command(name: str, path: Path) -> str:
    """Return a command as it can be typed, in one line."""
    return plain(f"{name} {shlex.quote(str(path))}")


def add_run_options(parser: argparse.ArgumentParser, root: str) -> None:
    """Add the options of commands that make runs: where they are kept, and how many run at a time."""
    add = parser.add_argument
    add(
        "--local", action="append", default=[], metavar="ID=FOLDER",
        help="where data or weights of a hub id lie on this machine, such as nyu-mll/glue=data/glue; may be repeated",
    )  # fmt: skip
    add("--root", type=Path, default=Path(root), help=f"where runs are kept (default: {root})")
    add("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    add("--threads", type=int, help="threads of each run (default: all cores, shared out; 1 on a cluster)")
    add(
        "--launcher", default="local", metavar="NAME",
        help="where runs are made: local, each in a process, with one GPU each if there are several; slurm, as jobs of "
        "a cluster (default: local)",
    )  # fmt: skip
    add(
        "--slurm", action="append", default=[], metavar="KEY=VALUE",
        help="option of the cluster's jobs, such as partition=gpu, time=120 (minutes), gpus_per_node=1, account=lab, "
        "array_parallelism=8 (default: --jobs); may be repeated",
    )  # fmt: skip
    add(
        "--run.resume_changed", dest="resume_changed", choices=("true", "false"), nargs="?", const="true",
        default="false", help="keep finished runs and resume interrupted ones although their data has changed since",
    )  # fmt: skip
    add("--dry-run", action="store_true", help="show what would be run, and run nothing")


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


def read_launcher(options: argparse.Namespace) -> Launcher:
    """Return the launcher of a command's options, with the store below its root.

    Raises:
        ValueError: If a number is not positive, or a launcher or an option of it is unknown.
    """
    if options.launcher not in LAUNCHERS:
        raise ValueError(f"--launcher {options.launcher}: no such launcher; {suggest(options.launcher, LAUNCHERS)}")
    slurm = options.launcher == "slurm"
    if options.slurm and not slurm:
        raise ValueError(f"--slurm {options.slurm[0]}: needs --launcher slurm")
    shared = 1 if slurm else (os.cpu_count() or 1) // max(options.jobs, 1)
    threads = max(shared, 1) if options.threads is None else options.threads
    for name, value in (("jobs", options.jobs), ("threads", threads)):
        if value < 1:
            raise ValueError(f"--{name} {value}: must be at least 1")
    store = Store(options.root)
    if slurm:
        return Slurm(store, options.jobs, threads, read_options(options.slurm))
    return Local(store, options.jobs, threads)
