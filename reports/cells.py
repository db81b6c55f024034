"""A cell of a table: its runs seed by seed, and its status beside the published figure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from filtune.experiments.archive import Archive, Pool

from .formatting import TIMES
from .seed_runs import SeedRuns, Values, best_runs, grid_runs
from .statistics import MeanStd, TTest, welch


class Status(Enum):
    """The status of a cell; of one that was run at several scales the first counts.

    Attributes:
        word: Its name.
        sign: A character, so that colour is not needed.
        tex: The same for LaTeX without further packages.
        meaning: In a sentence.
    """

    REPRODUCED = ("reproduced", "✓", "$^{=}$", "run as published; the mean does not differ significantly")
    EXCEEDS = ("exceeds", "▲", "$^{>}$", "run as published; significantly better than published")
    NOT_REPRODUCED = ("not reproduced", "✗", "$^{\\neq}$", "run as published; significantly worse than published")
    UNTESTED = ("not tested", "?", "$^{?}$", "run as published, but no test is possible: the cell says why")
    OURS = ("ours", "", "", "nothing is published: a tuned baseline or a recipe of ours")
    SCALED = ("scaled down", "◐", "$^{\\circ}$", "run at another scale: the order is compared, not the figure")
    DIVERGED = ("diverged", "!", "$^{\\dagger}$", "at least one seed diverged; the mean is that of the others")
    ABSENT = ("not attempted", "\u2013", "", "no run, or none that is finished")

    def __init__(self, word: str, sign: str, tex: str, meaning: str) -> None:
        self.word, self.sign, self.tex, self.meaning = word, sign, tex, meaning

    @property
    def slug(self) -> str:
        """Name of the class in the style sheet."""
        return self.word.replace(" ", "-")


@dataclass(frozen=True)
class CellResult:
    """A cell of a table.

    Attributes:
        name: ``row/column``.
        metric: The figure it shows.
        point: The runs it shows: with a grid, those of its best point.
        points: All points of the grid.
        published: As the paper has it.
        status: Its status.
        reason: Explanation of the status, if any.
        test: Ours against the published mean, of runs as published, with Holm's correction over the table.
        ratio: Our mean, and the published one, to those of AdamW; for times.
    """

    name: str
    metric: str
    point: SeedRuns
    points: list[SeedRuns]
    published: MeanStd | None
    status: Status
    reason: str = ""
    test: TTest | None = None
    ratio: tuple[float | None, float | None] = (None, None)

    @property
    def ours(self) -> MeanStd | None:
        """Our mean and standard deviation."""
        return self.point.sample(self.metric)

    @property
    def values(self) -> Values:
        """Our values by seed."""
        return self.point.values(self.metric)

    @property
    def difference(self) -> float | None:
        """Our mean minus the published one."""
        return None if self.ours is None or self.published is None else self.ours.mean - self.published.mean


def judge_cell(
    archive: Archive, pool: Pool, name: str, metric: str, lower: bool, published: MeanStd | None, chosen_by: str
) -> CellResult:
    """Return a cell's runs and their status beside the published figure.

    Args:
        archive: Where the records are.
        pool: The cells that were run.
        name: ``row/column``.
        metric: The figure it shows.
        lower: Whether less is better.
        published: As the paper has it.
        chosen_by: The metric by which the best point of a grid is chosen.
    """
    points = grid_runs(archive, pool, name)
    run = [point for point in points if point.records]
    best = best_runs(run, chosen_by) or next(iter(run), SeedRuns(name, {}))
    status, reason, test = _judge(best, pool, name, metric, lower, published)
    return CellResult(name, metric, best, points, published, status, reason, test)


def _judge(
    point: SeedRuns, pool: Pool, name: str, metric: str, lower: bool, published: MeanStd | None
) -> tuple[Status, str, TTest | None]:
    if not point.records:
        return Status.ABSENT, _absent(pool, name), None
    if point.diverged:
        count, total = len(point.diverged), len(point.records)
        said = next((point.records[seed].get("reason") for seed in point.diverged), None)
        return Status.DIVERGED, f"{count} of {total} seeds diverged" + (f": {said}" if said else ""), None
    ours = point.sample(metric)
    if ours is None:
        known = metric == "steps_to_convergence"
        reason = "no run converged" if known else f"the runs have no {metric.replace('_', ' ')}"
        return (Status.SCALED if pool.scale else Status.UNTESTED) if known else Status.ABSENT, reason, None
    if pool.scale:
        return Status.SCALED, "one seed: no standard deviation" if ours.count == 1 else "", None
    if published is None:
        return Status.OURS, "", None
    if metric in TIMES:
        return Status.UNTESTED, "times differ between machines: the ratios to AdamW's are compared", None
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


def with_ratio(cell: CellResult, reference: CellResult) -> CellResult:
    """Return the cell with its means as multiples of AdamW's."""
    pairs: list[Any] = [(cell.ours, reference.ours), (cell.published, reference.published)]
    ours, published = (a.mean / b.mean if a and b and b.mean else None for a, b in pairs)
    return replace(cell, ratio=(ours, published))
