"""Which seeds of a cell are run: the points of a grid with a few, the best of them with all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from .cells import Cell, Plan
from .search import rank, score
from .tables import Table

Records = Mapping[str, dict[str, Any]]
"""Records by key."""


def first_round(table: Table, cells: Sequence[Cell], seeds: Sequence[int], records: Records) -> Plan:
    """Points of a grid with the table's tuning seeds, where it has some; all else with all seeds."""
    return {cell.name: [s for s in seeds if not _tuned(table, cell) or s in table.tuning_seeds] for cell in cells}


def second_round(table: Table, cells: Sequence[Cell], seeds: Sequence[int], records: Records) -> Plan:
    """The best point of each grid, by the mean over the tuning seeds, with the seeds that are left.

    A grid of which a run failed or diverged at every point has no best.

    Args:
        table: Where the cells are from.
        cells: Those that were run.
        seeds: All seeds.
        records: What the first round left, by key.
    """
    plan: Plan = {}
    tuned = [cell for cell in cells if _tuned(table, cell)]
    metrics = {column.name: column.metric or table.metric for column in table.columns}
    tried = [seed for seed in seeds if seed in table.tuning_seeds]
    left = [seed for seed in seeds if seed not in table.tuning_seeds]
    for group, points in groupby(tuned, key=_group):
        metric = metrics[group[1]]
        scored = {cell.name: score([cell.key(s) for s in tried], records, metric) for cell in points}
        best = min(scored, key=lambda name: rank(scored[name], metric))
        if scored[best] and left:
            plan[best] = left
    return plan


def _tuned(table: Table, cell: Cell) -> bool:
    return bool(table.tuning_seeds) and cell.name.count("/") > 1


def _group(cell: Cell) -> list[str]:
    return cell.name.split("/")[:2]
