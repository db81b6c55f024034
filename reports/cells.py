"""A cell of a table: its runs, seed by seed, and what became of it beside the published figure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .reading import Archive, Pool, Record, value
from .statistics import Sample, Test, summarise, welch
from .status import Status
from .words import TIMES, lower_is_better


@dataclass(frozen=True)
class Point:
    """The runs of one configuration.

    Attributes:
        name: The point of its row's grid; empty where there is no grid.
        records: Records by seed.
        values: The metric by seed, of the runs that finished and have it.
    """

    name: str
    records: dict[int, Record]
    values: dict[int, float]

    @property
    def diverged(self) -> list[int]:
        """Seeds that diverged."""
        return [seed for seed, record in self.records.items() if record["status"] == "diverged"]

    @property
    def sample(self) -> Sample | None:
        """Mean and deviation of what finished."""
        return summarise(list(self.values.values()))


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        name: ``row/column``.
        metric: The figure it shows.
        point: The runs it shows: with a grid, those of its best point.
        points: All points of the grid.
        published: As the paper has it.
        status: What became of it.
        reason: Why it is so, where that is not plain.
        test: Ours against the published mean, of runs as published.
        adjusted: Its p-value after Holm over the table.
        ratio: Our mean, and the published one, to those of AdamW; for times.
    """

    name: str
    metric: str
    point: Point
    points: list[Point]
    published: Sample | None
    status: Status
    reason: str = ""
    test: Test | None = None
    adjusted: float | None = None
    ratio: tuple[float | None, float | None] = (None, None)

    @property
    def ours(self) -> Sample | None:
        """Our mean and deviation."""
        return self.point.sample

    @property
    def difference(self) -> float | None:
        """Our mean minus the published one."""
        return None if self.ours is None or self.published is None else self.ours.mean - self.published.mean


def make_cell(
    archive: Archive, pool: Pool, name: str, metric: str, lower: bool, published: Sample | None, chosen_by: str
) -> Cell:
    """Read a cell and judge it.

    Args:
        archive: Where the records are.
        pool: The cells that were run.
        name: ``row/column``.
        metric: The figure it shows.
        lower: Whether less is better.
        published: As the paper has it.
        chosen_by: The metric by which the best point of a grid is chosen.
    """
    points = []
    for full, keys in pool.cells.items():
        if full == name or full.startswith(f"{name}/"):
            points.append(_point(full[len(name) + 1 :], archive.records(keys), metric))
    best = _best(points, chosen_by) or Point("", {}, {})
    status, reason, test = _judge(best, pool, name, metric, lower, published)
    return Cell(name, metric, best, points, published, status, reason, test)


def _point(name: str, records: dict[int, Record], metric: str) -> Point:
    found = {seed: value(record, metric) for seed, record in records.items() if record["status"] == "finished"}
    return Point(name, records, {seed: number for seed, number in found.items() if number is not None})


def _best(points: list[Point], chosen_by: str) -> Point | None:
    """The point of the best mean among those with the most finished seeds."""
    ranked = [(point, _point(point.name, point.records, chosen_by)) for point in points if point.records]
    if not ranked:
        return None
    most = max(len(by.values) for _, by in ranked)
    sign = -1 if lower_is_better(chosen_by) else 1
    return max(
        (pair for pair in ranked if len(pair[1].values) == most),
        key=lambda pair: sign * pair[1].sample.mean if pair[1].sample else 0.0,
    )[0]


def _judge(
    point: Point, pool: Pool, name: str, metric: str, lower: bool, published: Sample | None
) -> tuple[Status, str, Test | None]:
    if not point.records:
        return Status.ABSENT, _absent(pool, name), None
    if point.diverged:
        count, total = len(point.diverged), len(point.records)
        said = next((point.records[seed].get("reason") for seed in point.diverged), None)
        return Status.DIVERGED, f"{count} of {total} seeds diverged" + (f": {said}" if said else ""), None
    ours = point.sample
    if ours is None:
        known = metric == "steps_to_convergence"
        reason = "no run converged" if known else f"the runs have no {metric.replace('_', ' ')}"
        return (Status.SCALED if pool.scale else Status.UNTESTED) if known else Status.ABSENT, reason, None
    if pool.scale:
        return Status.SCALED, "one seed: nothing can be said of its spread" if ours.count == 1 else "", None
    if published is None:
        return Status.OURS, "", None
    if metric in TIMES:
        return Status.UNTESTED, "times differ between machines: what is compared is the ratio to AdamW's", None
    test = welch(ours, published)
    if test is None:
        lacking = "one seed: no significance" if ours.count == 1 else "the paper gives no deviation"
        return Status.UNTESTED, lacking, None
    if not test.significant:
        return Status.REPRODUCED, "", test
    better = (test.difference < 0) == lower
    return (Status.EXCEEDS if better else Status.NOT_REPRODUCED), "", test


def _absent(pool: Pool, name: str) -> str:
    reasons = {why for cell, why in pool.missing.items() if cell == name or cell.startswith(f"{name}/")}
    if reasons:
        return "could not be run: " + "; ".join(sorted(reasons))
    asked = any(cell == name or cell.startswith(f"{name}/") for cell in pool.cells)
    return "asked for, and not finished yet" if asked else ""


def with_ratio(cell: Cell, reference: Cell) -> Cell:
    """The cell with its means as multiples of AdamW's."""
    pairs: list[Any] = [(cell.ours, reference.ours), (cell.published, reference.published)]
    ours, published = (a.mean / b.mean if a and b and b.mean else None for a, b in pairs)
    return replace(cell, ratio=(ours, published))
