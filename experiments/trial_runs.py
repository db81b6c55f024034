"""The runs of a search: those of each trial with all seeds, their results, and what is pruned."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

from filtune.lightning_modules.integrity import DamagedFile
from filtune.lightning_modules.legacy import translate_figure
from optuna.trial import FrozenTrial, Trial
from rich.console import Console

from .composition import grid_points, point_name
from .estimate import run_size
from .records import FORMAT, Manifest, Record, Store
from .run_folder import Scalars
from .runner import JobSource
from .runs import Job, find_curve
from .search import PARTS, GridPoint, point_values, rank
from .terminal import terminal_table
from .trials import REASON, VALUES, Sweep, Trials, written_once


@dataclass
class OpenTrial:
    """A trial that this process works on.

    Attributes:
        trial: The trial.
        jobs: Its runs.
        records: The records so far, by key; None of a run that failed or was stopped.
        pruned: Why it is stopped early; empty if it is not.
    """

    trial: Trial
    jobs: list[Job]
    records: dict[str, Record | None] = field(default_factory=dict)
    pruned: str = ""


class TrialRuns(JobSource):
    """The source of a search's runs.

    Attributes:
        name: Name of its manifest and of the best configuration: that of the sweep, with a key where another one of
            that name came first in the root.

    Args:
        sweep: What is searched.
        store: Where records and manifests are.
        storage: Where trials are, a path or URL; by default a file below the root.
    """

    def __init__(self, sweep: Sweep, store: Store, storage: str | None) -> None:
        self.sweep, self.store = sweep, store
        key = sweep.key
        self.trials = Trials(sweep, storage or str(store.root / "storage" / f"{sweep.name}-{key}.log"), store.root)
        self._queue: deque[Job] = deque()
        self._open: dict[str, list[OpenTrial]] = {}
        self._sizes: dict[str, int] = {}
        before = store.read_manifest(sweep.name) or self._manifest()
        is_own = all(before.get(field) == self._manifest()[field] for field in ("table", "sweep", "seeds"))
        first = written_once(store.root / "claims" / f"{sweep.name}.first", key if is_own else "another")
        self.name = sweep.name if first == key else f"{sweep.name}-{key}"
        self._write_manifest()

    def known(self) -> list[Job]:
        """Return the runs of a grid, or of the trials in the storage."""
        drawn = [self.trials.point(trial) for trial in self.trials.trials()]
        points = grid_points(self.sweep.space.grid) if self.sweep.sampler == "grid" else drawn
        return [job for point in points for job in self.sweep.jobs(point)]

    def take(self) -> Job | None:
        """Return the next run of a trial that was claimed, else the first of the next trial."""
        while not self._queue and (trial := self.trials.claim()) is not None:
            opened = OpenTrial(trial, self.sweep.jobs(self.trials.point(trial)))
            new = [job for job in opened.jobs if job.key not in self._open]  # two points may be of one run
            for job in opened.jobs:
                self._open.setdefault(job.key, []).append(opened)
            self._queue.extend(new)
        return self._queue.popleft() if self._queue else None

    def left(self) -> list[Job]:
        """Return runs like those of the trials that were not begun, or that other processes work on."""
        asked = len(self.trials.study.get_trials(deepcopy=False))
        others = sum(self.trials.is_here(trial) for trial in self.trials.elsewhere())
        number = (max(self.sweep.total - asked, 0) + others) * len(self.sweep.seeds)
        like = self.sweep.jobs({})[:1] if number else []
        return [*self._queue, *like * number]

    def settle(self, job: Job, record: Record | None) -> None:
        """Take the record of a run, and write the result of trials that are complete."""
        for opened in self._open.pop(job.key):
            opened.records[job.key] = record
            if record and job.seed == self.sweep.seeds[0] and not opened.pruned:
                pruned = self._report(opened, job, {tag: (s, v) for tag, (s, v) in record["curves"].items()})
                opened.pruned = pruned if len(opened.jobs) > 1 else ""  # of one seed, the whole run is known by now
            if opened.records.keys() == {job.key for job in opened.jobs}:
                self._finish(opened)
            elif opened.pruned:
                self._drop_queued(opened)

    def stopped(self, job: Job) -> bool:
        """Return whether a run is of a trial that is pruned, by the metric of its first seed so far."""
        if self.sweep.pruner is None:
            return False
        opened = self._open[job.key]
        for one in opened:
            if job.seed == self.sweep.seeds[0] and not one.pruned and (curves := self._new_curves(job)):
                one.pruned = self._report(one, job, curves)
                if one.pruned:
                    self._drop_queued(one)
        return all(one.pruned for one in opened)

    def close(self) -> None:
        """Let other processes have the trials that are not complete."""
        self.trials.close()

    def best(self, failures: dict[str, str]) -> GridPoint:
        """Return the best point.

        Raises:
            ValueError: If no point has the metric of all seeds.
        """
        ranked = self.ranked()
        if not ranked or not values_of(ranked[0]):
            reason = next(iter(failures.values()), "")
            failed = f"; {len(failures)} runs failed, the first with: {reason}" if reason else ""
            raise ValueError(
                f"--metric {self.sweep.metric}: no point has this figure of all seeds{failed}; see {self.store.root}"
            )
        return self.trials.point(ranked[0])

    def ranked(self) -> list[FrozenTrial]:
        """Return the trials, the best first; of equal ones the earlier."""
        return sorted(self.trials.trials(), key=lambda trial: (rank(values_of(trial), self.sweep.metric), trial.number))

    def _report(self, opened: OpenTrial, job: Job, curves: dict[str, Scalars]) -> str:
        """Report the metric at the parts of the run that are done; why the trial is to be pruned, if it is."""
        size = run_size(job.config, job.task)
        if self.sweep.pruner is None or size is None:
            return ""
        steps, values = curves.get(translate_figure(self.sweep.metric).replace("_", "/", 1), ([], []))
        done = {
            part: [v for s, v in zip(steps, values, strict=True) if s <= part * size.steps / PARTS][-1]
            for part in range(1, PARTS + 1)
            if steps and steps[0] <= part * size.steps / PARTS <= steps[-1]
        }
        part = self.trials.report(opened.trial, done)
        return f"pruned after {part} of {PARTS} parts" if part else ""

    def _new_curves(self, job: Job) -> dict[str, Scalars]:
        """Return the curves of a run under way, if anything was logged since they were last read."""
        try:
            size, curves = find_curve(self.store.runs(job.key), self._sizes.get(job.key, 0))
        except (DamagedFile, OSError):  # it is being written
            return {}
        self._sizes[job.key] = size
        return curves

    def _drop_queued(self, opened: OpenTrial) -> None:
        """Take runs of a pruned trial that were not begun out of the queue."""
        dropped = [job for job in self._queue if all(one.pruned for one in self._open[job.key])]
        self._queue = deque(job for job in self._queue if job not in dropped)
        for job in dropped:
            self.settle(job, None)

    def _finish(self, opened: OpenTrial) -> None:
        records = {key: record for key, record in opened.records.items() if record is not None}
        values = point_values([job.key for job in opened.jobs], records, self.sweep.metric)
        if opened.pruned:
            self.trials.finish(opened.trial, [], opened.pruned)
        elif len(records) < len(opened.jobs):
            self.trials.fail(opened.trial)
        else:
            self.trials.finish(opened.trial, values, "" if values else "diverged")
        self._write_manifest()

    def _write_manifest(self) -> None:
        """Write which records belong to which point; all of it is in the storage, whichever process writes it last."""
        self.store.write_manifest(self.name, self._manifest())

    def _manifest(self) -> Manifest:
        options = {"name": self.sweep.name, "grid": self.sweep.options(), "metric": self.sweep.metric, "halving": None}
        more = {"sampler": self.sweep.sampler, "pruner": self.sweep.pruner}
        cells, missing = {}, {}
        for trial in self.trials.trials():
            point = self.trials.point(trial)
            cells[point_name(point)] = {str(job.seed): self.store.kept_as(job.key) for job in self.sweep.jobs(point)}
            if (reason := reason_of(trial)) and reason != "diverged":
                missing[point_name(point)] = reason
        content = {"format": FORMAT, "table": None, "sweep": options | more, "scale": {}, "seeds": self.sweep.seeds}
        return {**content, "cells": cells, "missing": missing}


def values_of(trial: FrozenTrial) -> list[float]:
    """Return the metric of all seeds of a trial; empty if it has none."""
    return trial.user_attrs.get(VALUES, [])


def reason_of(trial: FrozenTrial) -> str:
    """Return why a trial has no result; empty if it has, or is not complete."""
    return trial.user_attrs.get(REASON, "")


def show_results(console: Console, search: TrialRuns) -> None:
    """Print all points, the best first."""
    rows = []
    for trial in search.ranked():
        values = values_of(trial)
        deviation = f"{statistics.stdev(values):.3f}" if len(values) > 1 else ""
        mean = f"{statistics.fmean(values):.3f}" if values else reason_of(trial) or "failed, or not complete"
        rows.append((point_name(search.trials.point(trial)) or "as it is", mean, deviation, str(len(values))))
    title = f"{search.sweep.metric.replace('_', ' ')}, best first"
    console.print(terminal_table(title, ("point", "mean", "deviation", "seeds"), rows))
    if others := [trial for trial in search.trials.elsewhere() if not search.trials.is_here(trial)]:
        console.print(f"{len(others)} points are under way with another --root", highlight=False)
