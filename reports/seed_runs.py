"""The runs of a configuration by seed: the values of a metric, and the best of several configurations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from filtune.experiments.archive import Archive, Pool
from filtune.experiments.records import Record, lower_is_better, metric_of

from .statistics import MeanStd, summarise

Values = dict[int, float]
"""Values of a metric by seed."""


@dataclass(frozen=True)
class SeedRuns:
    """The runs of a configuration.

    Attributes:
        name: Of the configuration among others.
        records: Records by seed.
    """

    name: str
    records: dict[int, Record]

    @property
    def diverged(self) -> list[int]:
        """Seeds that diverged."""
        return [seed for seed, record in self.records.items() if record["status"] == "diverged"]

    def values(self, metric: str) -> Values:
        """Return a metric by seed, of the runs that finished and have it."""
        finished = {seed: record for seed, record in self.records.items() if record["status"] == "finished"}
        found = {seed: metric_of(record, metric) for seed, record in finished.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def sample(self, metric: str) -> MeanStd | None:
        """Return mean and standard deviation of a metric; None if no finished run has it."""
        return summarise([*self.values(metric).values()])


def grid_runs(archive: Archive, pool: Pool, name: str) -> list[SeedRuns]:
    """Return the runs of a cell ``row/column``: those of each point of its grid, by the name of the point."""
    return [
        SeedRuns(full[len(name) + 1 :], archive.records(keys))
        for full, keys in pool.cells.items()
        if full == name or full.startswith(f"{name}/")
    ]


Runs = TypeVar("Runs", bound=SeedRuns)


def best_runs(candidates: Iterable[Runs], metric: str) -> Runs | None:
    """Return the one of the best mean among those with the most seeds, the first of equals; None if none has any."""
    scored = [(runs, sample) for runs in candidates if (sample := runs.sample(metric))]
    most, sign = max((sample.count or 0 for _, sample in scored), default=0), -1 if lower_is_better(metric) else 1
    full = [pair for pair in scored if pair[1].count == most]
    return max(full, key=lambda pair: sign * pair[1].mean)[0] if full else None
