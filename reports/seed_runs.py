"""The runs of a configuration by seed: the values and curves of a metric, and the best of several configurations."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from filtune.experiments.archive import Archive, Pool
from filtune.experiments.composition import lookup
from filtune.experiments.records import Record, lower_is_better, metric_of

from .curves import curve_of
from .statistics import MeanStd, summarise

Values = dict[int, float]
"""Values of a metric by seed."""

Curve = tuple[np.ndarray, np.ndarray]
"""Samples, and the values of a metric after them."""


@dataclass(frozen=True)
class SeedRuns:
    """The runs of a configuration.

    Attributes:
        name: In a table ``row/column``, and with a grid its setting; in a list of runs the configuration's label.
        records: Records by seed.
    """

    name: str
    records: dict[int, Record]

    @property
    def row(self) -> str:
        """Name of the row of the table."""
        return self.name.partition("/")[0]

    @property
    def setting(self) -> str:
        """Point of the row's grid, such as ``lr=0.001``; empty without a grid."""
        return self.name.split("/", 2)[2] if self.name.count("/") > 1 else ""

    @property
    def finished(self) -> dict[int, Record]:
        """Records of the runs that finished, by seed."""
        return {seed: record for seed, record in self.records.items() if record["status"] == "finished"}

    @property
    def diverged(self) -> list[int]:
        """Seeds that diverged."""
        return [seed for seed, record in self.records.items() if record["status"] == "diverged"]

    @property
    def knows_end(self) -> bool:
        """True if its learning rate decays to the end of the run, which it must know."""
        decays = (lookup(record["config"], "model.schedule.decay", "none") for record in self.finished.values())
        return any(decay not in (None, "none") for decay in decays)

    def values(self, metric: str) -> Values:
        """Return a metric by seed, of the runs that finished and have it."""
        found = {seed: metric_of(record, metric) for seed, record in self.finished.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def sample(self, metric: str) -> MeanStd | None:
        """Return mean and standard deviation of a metric; None if no finished run has it."""
        return summarise([*self.values(metric).values()])

    def averages(self, metric: str) -> Values:
        """Return by seed the mean of all validations of a metric, not of the last alone."""
        return {seed: float(np.mean(self.curve(seed, metric)[1])) for seed in self.finished}

    def curve(self, seed: int, metric: str) -> Curve:
        """Return samples and the metric after them; an ``online_`` metric is the average up to there.

        Raises:
            KeyError: If the record has no such curve; :func:`grid_runs` leaves it out where it is needed.
        """
        return curve_of(self.records[seed], metric.replace("_", "/", 1))


def grid_runs(
    archive: Archive, pool: Pool, name: str, seeds: Collection[int] | None = None, curves: Collection[str] = ()
) -> list[SeedRuns]:
    """Return the runs of a cell: those of each point of its grid.

    Args:
        archive: Where the records are.
        pool: The cells that were run.
        name: ``row/column``.
        seeds: Only these; all by default.
        curves: Metrics that finished runs must have, with their curves; others are left out and named.
    """
    found = []
    for full, keys in pool.cells.items():
        if full == name or full.startswith(f"{name}/"):
            asked = {seed: r for seed, r in archive.records(keys).items() if seeds is None or seed in seeds}
            lacking = {seed: fault for seed, r in asked.items() if (fault := _lacking(r, curves))}
            for seed, fault in lacking.items():
                archive.leave_out(f"{full} seed {seed}, record {asked[seed].get('key')}: {fault}")
            found.append(SeedRuns(full, {seed: r for seed, r in asked.items() if seed not in lacking}))
    return found


def _lacking(record: Record, curves: Collection[str]) -> str:
    """Return what the record of a finished run lacks of the curves; empty if nothing."""
    if not curves or record["status"] != "finished":
        return ""
    if not (record.get("samples") and record.get("steps")):
        return "it has no number of samples and steps"
    for metric in curves:
        steps, values = record["curves"].get(metric.replace("_", "/", 1)) or ([], [])
        if metric_of(record, metric) is None or not steps or not np.isfinite(values).all():
            return f"it has no {metric}, or no curve of it"
    return ""


Runs = TypeVar("Runs", bound=SeedRuns)


def best_runs(candidates: Iterable[Runs], metric: str) -> Runs | None:
    """Return the one of the best mean among those with the most seeds, the first of equals; None if none has any."""
    scored = [(runs, sample) for runs in candidates if (sample := runs.sample(metric))]
    most, sign = max((sample.count or 0 for _, sample in scored), default=0), -1 if lower_is_better(metric) else 1
    full = [pair for pair in scored if pair[1].count == most]
    return max(full, key=lambda pair: sign * pair[1].mean)[0] if full else None
