"""Search spaces: grids and ranges of options, the runs of each point, and the choice of the best point."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from filtune.lightning_modules.yaml_loader import parse_value

from .cells import Cell, SeedPlan
from .records import Record, lower_is_better, metric_of
from .tables import Table

Records = Mapping[str, Record]
"""Records by key."""

SECTIONS = ("data", "model", "optimizer", "trainer")
"""Sections of a configuration whose options a grid may have."""

GridPoint = dict[str, Any]
"""Options by dotted key."""


SAMPLERS = ("grid", "random", "tpe")
PRUNERS = ("halving", "hyperband", "median")

PARTS = 27
"""How often the metric of a run is reported to a pruner, evenly; a power of 3, by which halving goes by default."""


@dataclass(frozen=True)
class Bounds:
    """Bounds between which the values of an option are drawn.

    Attributes:
        low: The lowest value; whole numbers are drawn if both bounds are.
        high: The highest value.
        log: Whether its logarithm is drawn.
    """

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class SearchSpace:
    """The options of a search.

    Attributes:
        grid: Values by dotted key.
        ranges: Bounds by dotted key.
    """

    grid: dict[str, list[Any]]
    ranges: dict[str, Bounds]

    @property
    def keys(self) -> set[str]:
        """Dotted keys of all options."""
        return self.grid.keys() | self.ranges.keys()

    @property
    def choices(self) -> dict[str, list[Any]]:
        """The grid's values as a storage can hold them: plain ones as they are, lists and the like as JSON."""
        return {key: _storable(values) for key, values in self.grid.items()}

    def suggest(self, trial: Any) -> None:
        """Draw the values that a trial of Optuna has none of yet."""
        for key, values in self.choices.items():
            trial.suggest_categorical(key, values)
        for key, found in self.ranges.items():
            whole = isinstance(found.low, int) and isinstance(found.high, int)
            (trial.suggest_int if whole else trial.suggest_float)(key, found.low, found.high, log=found.log)

    def decode(self, params: Mapping[str, Any]) -> GridPoint:
        """Return the options that a trial's values stand for; drawn numbers have six digits, which name them."""
        point = {key: values[self.choices[key].index(params[key])] for key, values in self.grid.items()}
        drawn = {key: params[key] for key in self.ranges}
        return point | {key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in drawn.items()}


def _storable(values: list[Any]) -> list[Any]:
    plain = all(isinstance(value, str | int | float) for value in values) and len(set(values)) == len(values)
    return values if plain else [json.dumps(value) for value in values]


def read_ranges(pairs: list[str], sampler: str, grid: Mapping[str, Any]) -> dict[str, Bounds]:
    """Return bounds by dotted key, from ``KEY=LOW,HIGH`` or ``KEY=LOW,HIGH,log``.

    Raises:
        ValueError: If one is not of that form, cannot be searched by the sampler, or is in the grid as well.
    """
    found: dict[str, Bounds] = {}
    for pair in pairs:
        key, _, bounds = pair.partition("=")
        values = [parse_value(value.strip()) for value in bounds.split(",")]
        low, high, how = values[0], values[1] if len(values) > 1 else None, values[2:]
        numbers = all(
            isinstance(bound, int | float) and not isinstance(bound, bool) and abs(bound) < math.inf
            for bound in (low, high)
        )
        if not numbers or not low < high or how not in ([], ["log"]) or (how and low <= 0):
            raise ValueError(
                f"--range {pair}: is to be KEY=LOW,HIGH or, of positive numbers, KEY=LOW,HIGH,log, such as "
                "--range optimizer.lr=1e-4,1e-1,log"
            )
        _check_key("--range", key)
        if key in grid or key in found:
            raise ValueError(f"--range {key}: it is there twice; leave one out")
        if sampler == "grid":
            raise ValueError(f"--range {key}: a grid needs values; say --sampler random or tpe, or --grid {key}=V,V")
        found[key] = Bounds(low, high, bool(how))
    return found


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
        _check_key("--grid", key)
        twice = [value for place, value in enumerate(found) if _among(value, found[:place])]
        if key in grid or twice:
            raise ValueError(f"--grid {key}: {twice[0] if twice else 'it'} is there twice; leave one out")
        grid[key] = found
    return grid


def _check_key(option: str, key: str) -> None:
    section, *names = key.split(".")
    if section not in SECTIONS or not all(names) or not names:
        more = "; --seeds says how many seeds each point has" if section == "seed_everything" else ""
        raise ValueError(f"{option} {key}: is to be an option of {', '.join(SECTIONS)}, such as optimizer.lr{more}")


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
