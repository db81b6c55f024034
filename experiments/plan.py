"""The plan of ``filtune reproduce`` and its results, as tables on the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from rich.console import Console

from .availability import needs
from .cells import Cell, SeedPlan
from .composition import grid_points, metadata
from .estimate import Estimator, format_duration, run_size
from .launchers import Launcher
from .records import Store, metric_of
from .tables import Table, load_table, table_names
from .terminal import terminal_table

LONG = 3600.0
"""Seconds from which on a plan says how it becomes shorter."""


def print_tables(console: Console) -> None:
    """Print the tables and figures there are, with the number of their cells."""
    tables = {name: load_table(name) for name in table_names()}
    rows = [(name, table.title, str(count_cells(table))) for name, table in tables.items()]
    title = "tables and figures: filtune reproduce NAME"
    console.print(terminal_table(title, ("name", "what it shows", "cells"), rows, ("what it shows",), no_wrap=True))


@dataclass
class Total:
    """Runs of a plan, each counted once.

    Attributes:
        runs: Keys of all runs; of the best points of grids, which are not known yet, some name of their own.
        left: Those to be made.
        unknown: Those of them whose time is not known.
        seconds: The time of those to be made.
        possible: The part of it whose data and weights are there.
    """

    runs: set[Hashable] = field(default_factory=set)
    left: set[Hashable] = field(default_factory=set)
    unknown: set[Hashable] = field(default_factory=set)
    seconds: float = 0.0
    possible: float = 0.0

    def add(self, left: Iterable[Hashable], each: float | None, is_possible: bool) -> None:
        """Add runs to be made, which take as long each; columns that differ in their metric share their runs."""
        new = set(left) - self.left
        self.left |= new
        self.runs |= new
        self.unknown |= new if each is None else set()
        self.seconds += (each or 0.0) * len(new)
        self.possible += (each or 0.0) * len(new) if is_possible else 0.0


def print_plan(
    console: Console,
    tables: list[Table],
    chosen: dict[str, list[Cell]],
    plans: dict[str, SeedPlan],
    seeds: dict[str, list[int]],
    launcher: Launcher,
    folders: dict[str, str],
) -> None:
    """Print the time of all runs, each counted once, and cells, sizes and downloads.

    Args:
        console: Where it is printed.
        tables: The tables.
        chosen: Their cells.
        plans: Seeds of each cell; points of a grid that is tuned have the tuning seeds alone.
        seeds: All seeds. The best points of grids are run with those that are left.
        launcher: Where runs are made, and the store of their records.
        folders: Where hub ids are on this machine.
    """
    store, estimator = launcher.store, Estimator(launcher.store.read_all())
    total, wanted, grids = Total(), {}, []
    for table in tables:
        rows = []
        for cell in chosen[table.name]:
            keys = [cell.key(seed) for seed in plans[table.name].get(cell.name, [])]
            left = [key for key in keys if store.read(key) is None]
            lacking = needs(cell.config, folders)
            wanted.update({(need.kind, need.name): (need, cell) for need in lacking})
            remarks = "; ".join(f"no {need.kind}" for need in lacking if need.where == "missing")
            each = estimator.seconds(cell.config, cell.task, cell.backbone)
            total.runs |= set(keys)
            total.add(left, each, not remarks)
            large = run_size(cell.config, cell.task)
            rows.append((
                cell.name, cell.backbone,
                "?" if large is None else f"{large.samples:,}", "?" if large is None else f"{large.steps:,}",
                f"{len(keys) - len(left)} of {len(keys)}", format_duration(each and each * len(left)), remarks,
            ))  # fmt: skip
        for points, runs, left, is_possible in _best_points(table, chosen[table.name], plans, seeds, store, folders):
            total.runs |= runs
            times = [estimator.seconds(point.config, point.task, point.backbone) for point in points]
            known = [seconds for seconds in times if seconds is not None]
            total.add(left, statistics.fmean(known) if known else None, is_possible)
        heads, title = (
            ("cell", "backbone", "samples", "steps", "done", "time", "remarks"),
            f"{table.name}: {table.title}",
        )
        grids.append(terminal_table(title, heads, rows, ("backbone", "remarks"), no_wrap=True))
    workers, number = launcher.workers, sum(map(len, chosen.values()))
    more = f", {len(total.unknown)} runs of unknown time" if total.unknown else ""
    print_total(
        console, len(total.left), f"{len(total.runs)} runs of {number} cells", total.seconds / workers,
        total.possible / workers, f" with {workers} at a time{more}",
    )  # fmt: skip
    for grid in grids:
        console.print(grid)
    _print_needs(console, wanted)


def _best_points(
    table: Table,
    chosen: list[Cell],
    plans: dict[str, SeedPlan],
    seeds: dict[str, list[int]],
    store: Store,
    folders: dict[str, str],
) -> Iterator[tuple[list[Cell], set[Hashable], set[Hashable], bool]]:
    """Yield the points of each tuned grid, names of the runs of its best one, those to be made, and whether they can.

    Which point that is will be known after the first round: a run is named by the grid, the metric and the seed.
    """
    plan, every = plans[table.name], seeds[table.name]
    metrics = {column.name: column.chosen_by or column.metric or table.metric for column in table.columns}
    tuned = [cell for cell in chosen if set(plan.get(cell.name, every)) < set(every)]
    for (_, column), group in groupby(tuned, key=lambda cell: tuple(cell.name.split("/")[:2])):
        points = list(group)
        later = [seed for seed in every if seed not in plan[points[0].name]]
        left = [seed for seed in later if not any(store.read(point.key(seed)) for point in points)]
        grid = frozenset(point.key(plan[point.name][0]) for point in points if plan[point.name])
        missing = any(need.where == "missing" for need in needs(points[0].config, folders))
        names = {seed: (grid, metrics[column], seed) for seed in later}
        yield points, set(names.values()), {names[seed] for seed in left}, not missing


def count_cells(table: Table) -> int:
    """Return the number of cells of a table, of which a grid has one a point."""
    return sum(len(row.columns or table.columns) * len(grid_points(row.grid)) for row in table.rows)


def print_total(console: Console, left: int, runs: str, seconds: float, possible: float, remarks: str) -> None:
    """Print how many runs are left and how long they take, and options that make a long plan shorter.

    Args:
        console: Where it is printed.
        left: Runs to be made.
        runs: All runs, such as ``15 runs of 45 cells``.
        seconds: The time of what is left.
        possible: The part of it whose data and weights are there.
        remarks: Words that follow the time.
    """
    console.print(
        f"{left} of {runs} to be made: about {format_duration(seconds)}{remarks}, {format_duration(possible)} of "
        "it for what can be run now; estimated from the size of the models until similar runs have been made here",
        highlight=False,
    )
    if seconds > LONG:
        console.print("shorter: --seeds 1, --cells NAME ..., --max-samples 500, or another --backbone", highlight=False)


def _print_needs(console: Console, wanted: dict[Any, Any]) -> None:
    rows = []
    for need, cell in wanted.values():
        part = metadata("task", cell.task) if need.kind == "data" else metadata("backbone", cell.backbone)
        megabytes = part.get("download_mb")
        where = f"missing: {need.reason}" if need.where == "missing" else need.where
        rows.append((need.kind, need.name, where, f"{megabytes} MB" if megabytes and need.where != "here" else ""))
    console.print(terminal_table("data and weights", ("what", "name", "where", "size"), rows, ("name", "where")))


def print_results(
    console: Console, table: Table, chosen: list[Cell], seeds: list[int], records: dict[str, dict[str, Any]]
) -> None:
    """Print mean and standard deviation of each cell beside the published ones."""
    shown = []
    columns = {column.name: i for i, column in enumerate(table.columns)}
    rows = {row.name: row for row in table.rows}
    for cell in chosen:
        row, column = cell.name.split("/")[:2]
        metric = table.columns[columns[column]].metric or table.metric
        found = [records[cell.key(seed)] for seed in seeds if cell.key(seed) in records]
        numbers = [value for record in found if (value := metric_of(record, metric)) is not None]
        published = (rows[row].published or [None] * len(columns))[columns[column]]
        if "metrics" in table.raw:
            published = published and [published[0], None]
        diverged = any(record["status"] == "diverged" for record in found)
        ours = "diverged" if diverged and not numbers else _mean_std(numbers)
        shown.append((cell.name, ours, str(len(numbers)), _published(published)))
    title = f"{table.name}: {table.metric.replace('_', ' ')}"
    console.print(terminal_table(title, ("cell", "ours", "seeds", "published"), shown, no_wrap=True))


def _mean_std(values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    form = ".3g" if 0 < abs(mean) < 0.1 else ".2f"
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{mean:{form}}{deviation}"


def _published(value: Any) -> str:
    if value is None:
        return ""
    mean, deviation = value if isinstance(value, list) else (value, None)
    return f"{mean}" if deviation is None else f"{mean} ± {deviation}"
