"""The cells of a table as runs: task x backbone x optimizer, with their options and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from filtune.suggestions import suggest

from .composition import Config, assign, compose, grid_points, lookup, point_name
from .estimate import run_size
from .keys import run_key
from .tables import Column, Row, Table

SeedPlan = dict[str, list[int]]
"""Seeds to be run, by a cell's name."""


@dataclass(frozen=True)
class Scale:
    """Differences of the runs of a table from the paper's; empty for the paper's own scale.

    Attributes:
        max_samples: Length of the stream.
        backbone: Name of a file of configs/backbone that stands in for all models.
        set: Options of all cells, by dotted key.
    """

    max_samples: int | None = None
    backbone: str | None = None
    set: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Return what departs, for manifests."""
        return {key: value for key, value in self.__dict__.items() if value}

    @property
    def name(self) -> str:
        """Return what departs as a short name, for the names of manifests."""
        words = [self.backbone, f"{self.max_samples}" if self.max_samples else None]
        words += [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(self.set.items())]
        return ",".join(str(word) for word in words if word).replace("/", "-").replace(" ", "")


@dataclass(frozen=True)
class Cell:
    """One configuration of a table, to be run with several seeds.

    Attributes:
        name: ``row/column``, and the point of the row's grid.
        config: The composed configuration, without a seed.
        backbone: Name of a file of configs/backbone.
        task: Name of a file of configs/task.
    """

    name: str
    config: Config
    task: str
    backbone: str

    def key(self, seed: int) -> str:
        """Return the key of the cell's run with a seed."""
        return run_key(self.config, seed)


CURVES = {"trainer.log_every_n_steps": 50}
"""Spacing of the curves of cells that set no other: it is part of a run's key, and does not depend on its length."""


def cells(table: Table, scale: Scale | None = None) -> list[Cell]:
    """Return all cells of a table, row by row; those of the tables that it is over, where it is."""
    scale = scale or Scale()
    of_sources = [cell for source in table.sources for cell in cells(source, scale)]
    found = []
    for row in table.rows:
        for column in table.columns:
            if row.columns is not None and column.name not in row.columns:
                continue
            if table.sources:
                found += [cell for cell in of_sources if cell.name.split("/")[:2] == [row.name, column.name]]
            else:
                found += [_cell(table, row, column, point, scale) for point in grid_points(row.grid)]
    return found


def _cell(table: Table, row: Row, column: Column, point: dict[str, Any], scale: Scale) -> Cell:
    backbone = column.backbone and (scale.backbone or column.backbone)  # a measurement may have a model of its own
    named = {"backbone": backbone, "optimizer": row.optimizer}
    parts = ["trainer/auto", f"task/{column.task}", *(f"{kind}/{name}" for kind, name in named.items() if name)]
    place = table.columns.index(column)
    own = {key: values[place] for key, values in row.by_column.items() if values[place] is not None}
    whole = compose(parts, CURVES, table.set, column.set, row.set, own, point)
    shorter = {"data.max_samples": scale.max_samples} if scale.max_samples else {}
    config = compose([], whole, shorter, scale.set)
    if "model.schedule.warmup" not in scale.set:
        _shorten_warmup(config, whole, column.task)
    name = "/".join([row.name, column.name, *([point_name(point)] if point else [])])
    return Cell(name, config, column.task, backbone)


def _shorten_warmup(config: Config, whole: Config, task: str) -> None:
    """Keep the warm-up's share of the run where the run is shorter: else it might never end."""
    warmup, now, printed = lookup(whole, "model.schedule.warmup"), run_size(config, task), run_size(whole, task)
    if warmup and now and printed and now.steps < printed.steps:
        assign(config, "model.schedule.warmup", warmup * now.steps // printed.steps)


def select(found: list[Cell], patterns: list[str]) -> list[Cell]:
    """Return the cells whose names match a pattern such as ``loko/*``; the name of a row or column matches all of it.

    Raises:
        ValueError: If a pattern matches nothing, naming near cells.
    """
    if not patterns:
        return found
    chosen = []
    for pattern in patterns:
        matching = [cell for cell in found if _matches(cell.name, pattern)]
        if not matching:
            raise ValueError(f"--cells {pattern}: no such cell; {suggest(pattern, _names(found))}")
        chosen += [cell for cell in matching if cell not in chosen]
    return chosen


def _matches(name: str, pattern: str) -> bool:
    steps = name.split("/")
    prefixes = ["/".join(steps[:k]) for k in range(1, len(steps) + 1)]
    return pattern in steps or any(fnmatchcase(prefix, pattern) for prefix in prefixes)


def _names(found: list[Cell]) -> set[str]:
    names = {"/".join(cell.name.split("/")[:2]) for cell in found}
    return names | {step for name in names for step in name.split("/")}
