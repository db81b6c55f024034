"""A method against tuned rivals on several streams, paired by seed: the numbers.

A rival is the best point of its grids on a stream, by the mean over the seeds that are compared: chosen after the fact,
which favours it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from filtune.experiments.tables import Table

from .reading import Archive, Pool, Record, value
from .statistics import Sample, Test, differences, paired, summarise

Values = dict[int, float]
Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Entrant:
    """A configuration on a stream.

    Attributes:
        name: ``row/column``, and the point of the grid.
        records: Finished records by seed.
    """

    name: str
    records: dict[int, Record]

    def values(self, metric: str, seeds: Collection[int] | None = None) -> Values:
        """A figure by seed, of the seeds named or all."""
        found = {seed: value(record, metric) for seed, record in self.records.items()}
        return {s: v for s, v in found.items() if v is not None and (seeds is None or s in seeds)}

    def averages(self, metric: str) -> Values:
        """Mean of a figure's course by seed: of all times that it was taken, not of the last."""
        return {seed: float(np.mean(self.curve(seed, metric)[1])) for seed in self.records}

    def curve(self, seed: int, metric: str) -> Curve:
        """Samples, and the figure after them: an ``online_`` score is the average up to there.

        Raises:
            ValueError: If its course was not kept.
        """
        record, tag = self.records[seed], metric.replace("_", "/", 1)
        if tag not in record["curves"]:
            raise ValueError(f"{self.name}: its record has no curve of {tag}")
        steps, scores = map(np.asarray, record["curves"][tag])
        return steps * (record["samples"] / record["steps"]), scores


@dataclass(frozen=True)
class Duel:
    """The method against one rival on one stream.

    Attributes:
        name: The rival's, as the study calls it.
        rival: Its best point.
        differences: The method's figures less the rival's, of the seeds that both have.
        test: Their t-test; none of a single one.
        speed: Samples after which the method has the rival's final figure, by seed, as a share of those after which
            the rival has it, or, on validation samples, of the rival's whole run; infinite where it never gets there.
    """

    name: str
    rival: Entrant
    differences: list[float]
    test: Test | None
    speed: Values


@dataclass(frozen=True)
class Stream:
    """One column of the study.

    Attributes:
        name: The column's.
        title: As the study has it.
        metric: The figure that is compared, by name.
        method: The method's entry.
        duels: By the rival's name.
        reserved: Whether nothing was chosen by it.
    """

    name: str
    title: str
    metric: str
    method: Entrant
    duels: dict[str, Duel]
    reserved: bool

    @property
    def online(self) -> bool:
        """Whether the figure is taken of every sample before it is learnt."""
        return is_online(self.metric)


def is_online(metric: str) -> bool:
    """Whether a figure is an average over the stream, and not one of validation samples."""
    return metric.startswith("online_")


def label(name: str, duel: Duel) -> str:
    """A rival as it is called: tuned, where it is a point of a grid."""
    return f"{name}, tuned" if duel.rival.name.count("/") > 1 else name


def contest(table: Table, archive: Archive, seeds: Collection[int] | None = None) -> list[Stream]:
    """All streams of a study that has a ``contest``.

    Args:
        table: The study.
        archive: Its records.
        seeds: Only these seeds; all by default.

    Raises:
        ValueError: If the study has no contest, or nothing of it was run.
    """
    rules: dict[str, Any] = table.raw.get("contest") or {}
    if not {"method", "rivals"} <= rules.keys():
        raise ValueError(f"{table.name}: its file has no contest with a method and rivals")
    pool = next((pool for pool in archive.pools.get(table.name, {}).values() if not pool.scale), None)
    if pool is None:
        raise ValueError(f"{table.name}: nothing of it was run; see `filtune reproduce`")
    streams = []
    for column in table.columns:
        entrants = {row.name: _entrants(archive, pool, f"{row.name}/{column.name}", seeds) for row in table.rows}
        method = next((e for e in entrants[rules["method"]] if e.records), None)
        if method is None:
            continue
        metric = column.metric or table.metric
        duels = {}
        for name, rows in rules["rivals"].items():
            best = _best([e for row in rows for e in entrants[row]], metric)
            if best is not None:
                duels[name] = _duel(name, method, best, metric)
        reserved = column.name in (rules.get("reserved") or {}).get("columns", [])
        streams.append(Stream(column.name, column.title, metric, method, duels, reserved))
    return streams


def spread(values: Mapping[int, float]) -> Sample | None:
    """Mean and deviation over the seeds."""
    return summarise(list(values.values()))


def samples_to(curve: Curve, target: float, for_good: bool) -> float:
    """Samples until a target is reached; infinite where it is not.

    Args:
        curve: Samples and scores.
        target: The score.
        for_good: Whether it is to be kept until the end.
    """
    samples, scores = curve
    reached = scores >= target
    if for_good:
        reached = np.logical_and.accumulate(reached[::-1])[::-1]
    return float(samples[reached.argmax()]) if reached.any() else float("inf")


def _entrants(archive: Archive, pool: Pool, name: str, seeds: Collection[int] | None) -> list[Entrant]:
    found = []
    for full, keys in pool.cells.items():
        if full == name or full.startswith(f"{name}/"):
            records = archive.records({s: key for s, key in keys.items() if seeds is None or s in seeds})
            found.append(Entrant(full, {s: r for s, r in records.items() if r["status"] == "finished"}))
    return found


def _best(entrants: list[Entrant], metric: str) -> Entrant | None:
    """The best mean among those with the most seeds."""
    scored = [(e, spread(e.values(metric))) for e in entrants]
    known = [(e, s) for e, s in scored if s is not None and s.count]
    if not known:
        return None
    most = max(s.count or 0 for _, s in known)
    return max((pair for pair in known if pair[1].count == most), key=lambda pair: pair[1].mean)[0]


def _duel(name: str, method: Entrant, rival: Entrant, metric: str) -> Duel:
    a, b = method.values(metric), rival.values(metric)
    seeds = sorted(a.keys() & b.keys())
    online = is_online(metric)  # an average passes a level for good; a validation goes up and down
    speed = {}
    for seed in seeds:
        own, theirs = method.curve(seed, metric), rival.curve(seed, metric)
        target = float(theirs[1][-1])
        speed[seed] = samples_to(own, target, online) / (samples_to(theirs, target, True) if online else theirs[0][-1])
    return Duel(name, rival, differences(a, b), paired(a, b), speed)
