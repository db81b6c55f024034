"""Grids of options: their points, which runs each point gets, and which point is best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from filtune.lightning_modules.yaml_loader import parse_value

from .cells import Cell, SeedPlan
from .composition import Config, compose
from .records import Record, lower_is_better, metric_of
from .tables import Table

Records = Mapping[str, Record]
"""Records by key."""

SECTIONS = ("data", "model", "optimizer", "trainer")
"""Sections of a configuration whose options a grid may have."""

GridPoint = dict[str, Any]
"""Options by dotted key."""


@dataclass(frozen=True)
class Rung:
    """A round of successive halving (Jamieson and Talwalkar, 2016).

    Attributes:
        samples: Length of the stream; none for that of the configuration.
        kept: How many points go on to the next round.
    """

    samples: int | None
    kept: int


def read_grid(pairs: list[str]) -> dict[str, list[Any]]:
    """Return values by dotted key, from ``KEY=VALUE,VALUE``.

    Raises:
        ValueError: If one is not of that form, names what is no option of a run, or has a key or a value twice.
    """
    grid: dict[str, list[Any]] = {}
    for pair in pairs:
        key, _, values = pair.partition("=")
        found = [parse_value(value) for value in _split(values)]
        if not key or not values or "" in found:
            raise ValueError(f"--grid {pair}: is to be KEY=VALUE,VALUE such as --grid optimizer.lr=1e-4,1e-3")
        section, *names = key.split(".")
        if section not in SECTIONS or not all(names) or not names:
            more = "; --seeds says how many seeds each point has" if section == "seed_everything" else ""
            raise ValueError(f"--grid {key}: is to be an option of {', '.join(SECTIONS)}, such as optimizer.lr{more}")
        twice = [value for place, value in enumerate(found) if _among(value, found[:place])]
        if key in grid or twice:
            raise ValueError(f"--grid {key}: {twice[0] if twice else 'it'} is there twice; leave one out")
        grid[key] = found
    return grid


def _split(values: str) -> list[str]:
    """Return the values between commas that are not within brackets."""
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _among(value: Any, others: list[Any]) -> bool:
    return any(type(value) is type(other) and value == other for other in others)


def rungs(points: int, samples: int | None, rate: int | None) -> list[Rung]:
    """Return the rounds: each keeps one point of ``rate`` with ``rate`` times the samples; without a rate, one round.

    Args:
        points: Points of the grid.
        samples: Samples of the last round, if known.
        rate: How many points one is kept of.

    Raises:
        ValueError: If the rate is too small, or the number of samples unknown.
    """
    last = Rung(None, 1)
    if rate is None:
        return [last]
    if rate < 2:
        raise ValueError(f"--halving {rate}: must be at least 2: one point of so many is kept in each round")
    if samples is None:
        raise ValueError("--halving: the length of the stream is not known; say --data.max_samples")
    kept = []
    while points > 1:
        points = math.ceil(points / rate)
        kept.append(points)
    rounds = len(kept)
    return [Rung(max(1, samples // rate ** (rounds - k)), left) for k, left in enumerate(kept)] + [last]


def config_at(config: Config, point: GridPoint, samples: int | None) -> Config:
    """Return the configuration at a point, with a stream of so many samples."""
    return compose([], config, point, {"data.max_samples": samples} if samples else {})


def point_values(keys: list[str], records: Records, metric: str) -> list[float]:
    """Return a metric of all seeds of a point, by the keys of its runs; empty where one of them failed or diverged."""
    values = [metric_of(records[key], metric) for key in keys if key in records]
    numbers = [value for value in values if value is not None]
    return numbers if len(numbers) == len(keys) else []


def rank(values: list[float], metric: str) -> float:
    """Return the sort key of a point, lowest first: best first, points without values last."""
    if not values:
        return math.inf
    return statistics.fmean(values) if lower_is_better(metric) else -statistics.fmean(values)


def first_round(table: Table, cells: Sequence[Cell], seeds: Sequence[int], records: Records) -> SeedPlan:
    """Return the first round: points of a grid with the table's tuning seeds, if any; other cells with all seeds."""
    return {cell.name: [s for s in seeds if not _tuned(table, cell) or s in table.tuning_seeds] for cell in cells}


def second_round(table: Table, cells: Sequence[Cell], seeds: Sequence[int], records: Records) -> SeedPlan:
    """Return the second round: the best point of each grid, by the mean over the tuning seeds, with the other seeds.

    A grid has no best point where a run failed or diverged at every point.

    Args:
        table: Where the cells are from.
        cells: Those that were run.
        seeds: All seeds.
        records: What the first round left, by key.
    """
    plan: SeedPlan = {}
    tuned = [cell for cell in cells if _tuned(table, cell)]
    metrics = {column.name: column.chosen_by or column.metric or table.metric for column in table.columns}
    tried = [seed for seed in seeds if seed in table.tuning_seeds]
    left = [seed for seed in seeds if seed not in table.tuning_seeds]
    for group, points in groupby(tuned, key=_group):
        metric = metrics[group[1]]
        scored = {cell.name: point_values([cell.key(s) for s in tried], records, metric) for cell in points}
        best = min(scored, key=lambda name: rank(scored[name], metric))
        if scored[best] and left:
            plan[best] = left
    return plan


def _tuned(table: Table, cell: Cell) -> bool:
    return bool(table.tuning_seeds) and cell.name.count("/") > 1


def _group(cell: Cell) -> list[str]:
    return cell.name.split("/")[:2]
