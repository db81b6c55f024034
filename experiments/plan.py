"""The plan of ``filtune reproduce`` and its results, as tables on the terminal."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console

from .availability import needs
from .cells import Cell, SeedPlan
from .composition import metadata
from .estimate import Estimator, format_duration, run_size
from .records import Store, metric_of
from .tables import Table, load_table, table_names
from .terminal import terminal_table

LONG = 3600.0
"""Seconds from which on a plan says how it becomes shorter."""


def print_tables(console: Console) -> None:
    """Print the tables and figures there are."""
    tables = {name: load_table(name) for name in table_names()}
    rows = [
        (name, table.title, str(sum(len(row.columns or table.columns) for row in table.rows)))
        for name, table in tables.items()
    ]
    title = "tables and figures: filtune reproduce NAME"
    console.print(terminal_table(title, ("name", "what it shows", "cells"), rows, ("what it shows",), no_wrap=True))


def print_plan(
    console: Console,
    tables: list[Table],
    chosen: dict[str, list[Cell]],
    plans: dict[str, SeedPlan],
    store: Store,
    folders: dict[str, str],
    workers: int,
) -> None:
    """Print the time of all runs, each counted once, and cells, sizes and downloads."""
    found = {
        key: store.read(key)
        for table in tables
        for cell in chosen[table.name]
        for key in map(cell.key, plans[table.name].get(cell.name, []))
    }
    estimator = Estimator(store.read_all())
    wanted, possible, whole, counted = {}, 0.0, 0.0, set()
    unknown: set[str] = set()
    grids = []
    for table in tables:
        rows = []
        for cell in chosen[table.name]:
            keys = [cell.key(seed) for seed in plans[table.name].get(cell.name, [])]
            left = [key for key in keys if found[key] is None]
            lacking = needs(cell.config, folders)
            wanted.update({(need.kind, need.name): (need, cell) for need in lacking})
            remarks = "; ".join(f"no {need.kind}" for need in lacking if need.where == "missing")
            each = estimator.seconds(cell.config, cell.task, cell.backbone)
            new = set(left) - counted  # columns that differ in their metric share their runs
            counted |= new
            whole += (each or 0.0) * len(new)
            possible += 0.0 if remarks else (each or 0.0) * len(new)
            unknown |= new if each is None else set()
            large = run_size(cell.config, cell.task)
            rows.append((
                cell.name, cell.backbone,
                "?" if large is None else f"{large.samples:,}", "?" if large is None else f"{large.steps:,}",
                f"{len(keys) - len(left)} of {len(keys)}", format_duration(each and each * len(left)), remarks,
            ))  # fmt: skip
        heads, title = (
            ("cell", "backbone", "samples", "steps", "done", "time", "remarks"),
            f"{table.name}: {table.title}",
        )
        grids.append(terminal_table(title, heads, rows, ("backbone", "remarks"), no_wrap=True))
    more = f", {len(unknown)} runs of unknown time" if unknown else ""
    print_total(
        console, len(counted), len(found), whole / workers, possible / workers, f" with {workers} at a time{more}"
    )
    for grid in grids:
        console.print(grid)
    _print_needs(console, wanted)


def print_total(console: Console, left: int, runs: int, seconds: float, possible: float, remarks: str) -> None:
    """Print how many runs are left and how long they take, and options that make a long plan shorter.

    Args:
        console: Where it is printed.
        left: Runs to be made.
        runs: All runs.
        seconds: The time of what is left.
        possible: The part of it whose data and weights are there.
        remarks: Words that follow the time.
    """
    console.print(
        f"{left} of {runs} runs to be made: about {format_duration(seconds)}{remarks}, {format_duration(possible)} of "
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
