"""``filtune reproduce TABLE``: run or resume the cells of a paper's table or figure, beside the published results."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from filtune.lightning_modules.legacy import translate_key
from rich.console import Console

from .availability import Need, needs
from .cells import Cell, Scale, SeedPlan, cells, select
from .classes import check_option
from .composition import parse_options
from .escaping import plain
from .plan import print_plan, print_results, print_tables
from .records import FORMAT, Store
from .runner import Listed, Outcome, Runner, add_run_options, read_folders, read_launcher, shown_command
from .runs import Job
from .search import SECTIONS, first_round, second_round
from .tables import Table, load_table, table_names, tables_by_name

EXAMPLES = """examples:
  filtune reproduce                                           list of tables and figures
  filtune reproduce loko.table2 --dry-run                     cells, sizes, downloads, time
  filtune reproduce loko.table2 --cells loko adamw/sst2-base  two rows, one of them in one column
  filtune reproduce loko.table2 --max-samples 2000 --backbone minilm --jobs 2
"""


def main(args: list[str]) -> int:
    """Run the command ``filtune reproduce``; return 1 where a run could not be made. Invalid options are an error."""
    options = _parser().parse_args(args)
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 130)  # files and pipes have no edge
    if not options.tables:
        print_tables(console)
        return 0
    for name, value in (("--seeds", options.seeds), ("--max-samples", options.max_samples)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: must be at least 1")
    folders, launcher = read_folders(options.local), read_launcher(options)
    scale = Scale(options.max_samples, options.backbone, _read_set(options.set))
    tables = list(tables_by_name(map(load_table, _names(options.tables))).values())
    chosen = {table.name: select(cells(table, scale), options.cells) for table in tables}
    for table in tables:
        for cell in chosen[table.name]:
            for key in scale.set:
                check_option(cell.config, translate_key(key), f"{table.name}, {cell.name}: --set")
    seeds = {table.name: list(range(options.seeds)) if options.seeds else table.seeds for table in tables}
    missing = _missing(chosen, folders)
    store = launcher.store
    if options.dry_run:
        first = {table.name: first_round(table, chosen[table.name], seeds[table.name], {}) for table in tables}
        print_plan(console, tables, chosen, first, seeds, launcher, folders)
        return 0
    for name, need in missing.items():
        said = plain(f"{name} left out: {need.kind} {need.name}: {need.reason}")
        console.print(said, style="yellow", highlight=False, soft_wrap=True)
    outcome, runner = Outcome(), Runner(launcher, console, options.resume_changed == "true")
    with store.lock():
        for plan_round in (first_round, second_round):
            plans = {t.name: plan_round(t, chosen[t.name], seeds[t.name], outcome.records) for t in tables}
            for table in tables:
                keep_manifest(store, table, scale, chosen[table.name], plans[table.name], missing)
            outcome.add(runner.execute(Listed(_jobs(chosen, plans, missing, folders))))
            reasons = {**missing, **_failed(chosen, seeds, outcome)}
            for table in tables:
                keep_manifest(store, table, scale, chosen[table.name], plans[table.name], reasons)
    for table in tables:
        print_results(console, table, chosen[table.name], seeds[table.name], outcome.records)
    _conclude(console, outcome, missing, options.root, _names(options.tables))
    return 1 if missing or outcome.failures else 0


def _read_set(pairs: list[str]) -> dict[str, Any]:
    """Return the options of all cells.

    Raises:
        ValueError: If one is no option that a table may have.
    """
    found = parse_options(pairs, "--set")
    for key in found.keys() - {"run.save_interval"}:
        if key.partition(".")[0] not in (*SECTIONS, "measurement") or not all(key.split(".")[1:]) or "." not in key:
            raise ValueError(f"--set {key}: is to be an option of {', '.join(SECTIONS)}, such as data.max_samples")
    return found


def _missing(chosen: dict[str, list[Cell]], folders: dict[str, str]) -> dict[str, Need]:
    """Return the cells that cannot be run, and the first data or weights they lack."""
    lacking = {}
    for cell in (cell for found in chosen.values() for cell in found):
        for need in needs(cell.config, folders):
            if need.where == "missing":
                lacking.setdefault(cell.name, need)
    return lacking


def _jobs(
    chosen: dict[str, list[Cell]], plans: dict[str, SeedPlan], missing: dict[str, Need], folders: dict[str, str]
) -> list[Job]:
    jobs: dict[str, Job] = {}
    for name, found in chosen.items():
        for cell in (cell for cell in found if cell.name not in missing):
            for seed in plans[name].get(cell.name, []):
                label = f"{name} {cell.name} seed {seed}"  # of cells that share a run, the first
                job = Job(cell.key(seed), cell.config, seed, cell.task, cell.backbone, label, folders)
                jobs.setdefault(job.key, job)
    return [*jobs.values()]


def _failed(chosen: dict[str, list[Cell]], seeds: dict[str, list[int]], outcome: Outcome) -> dict[str, str]:
    return {
        cell.name: outcome.failures[cell.key(seed)]
        for name, found in chosen.items()
        for cell in found
        for seed in seeds[name]
        if cell.key(seed) in outcome.failures
    }


def _names(asked: Iterable[str]) -> list[str]:
    """Return tables by name; a paper's name stands for all of its tables and figures, ``all`` for those of both."""
    names: list[str] = []
    for name in asked:
        of_paper = [table for table in table_names() if name == "all" or table.startswith(f"{name}.")]
        names += [table for table in (of_paper or [name]) if table not in names]
    return names


def keep_manifest(
    store: Store, table: Table, scale: Scale, chosen: list[Cell], plan: SeedPlan, missing: dict[str, Any]
) -> Path:
    """Write which records belong to which cells; cells and seeds of earlier commands stay.

    A record of an earlier release keeps its name, and the manifest names it so. That of another table is an error.
    """
    name = f"{table.name}@{scale.name}" if scale.name else table.name
    before = store.read_manifest(name) or {}
    if before and (before.get("table") != table.name or table.is_of_another_file(before.get("file"), store.root)):
        raise ValueError(f"--root {store.root}: its manifest {name} is of a sweep or another table; name another root")
    found = dict(before.get("cells", {}))
    for cell in (cell for cell in chosen if cell.name in plan):
        keys = {str(seed): store.kept_as(cell.key(seed)) for seed in plan[cell.name]}
        found[cell.name] = {**found.get(cell.name, {}), **keys}
    names = {cell.name for cell in chosen}
    left = {cell: why for cell, why in before.get("missing", {}).items() if cell not in names}
    manifest = {
        "format": FORMAT,
        "table": table.name,
        **({"file": os.path.relpath(table.file, store.root.resolve())} if table.file else {}),
        "scale": scale.describe(),
        "seeds": sorted({*before.get("seeds", []), *chain.from_iterable(plan.values())}),
        "cells": found,
        "missing": {**left, **{cell: _reason(why) for cell, why in missing.items() if cell in names}},
    }
    return store.write_manifest(name, manifest)


def _reason(why: Need | str) -> str:
    return why if isinstance(why, str) else f"{why.kind} {why.name}: {why.reason}"


def _conclude(console: Console, outcome: Outcome, missing: dict[str, Need], root: Path, names: list[str]) -> None:
    diverged = sum(record["status"] == "diverged" for record in outcome.records.values())
    words = f"{_number(len(outcome.records), 'run')}, {outcome.found} of them made before"
    words += f", {diverged} diverged" if diverged else ""
    words += f", {len(outcome.failures)} failed" if outcome.failures else ""
    words += f"; {_number(len(missing), 'cell')} left out" if missing else ""
    console.print(words, highlight=False)
    known = set(names) <= set(table_names())  # the report finds a table of the user's own by its file alone
    command = shown_command("filtune report", root) + ("" if known else f" --tables {plain(shlex.join(names))}")
    console.print(f"see  {command}", highlight=False, soft_wrap=True)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="filtune reproduce",
        description="Run the cells of the papers' tables and figures. Completed runs are skipped; interrupted runs "
        "resume.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", help="such as loko.table2; loko or grng for all of a paper"
    )
    parser.add_argument(
        "--cells", nargs="+", default=[], metavar="CELL", help="only these: row, column, row/column, or a pattern"
    )
    parser.add_argument("--seeds", type=int, help="seeds 0 to SEEDS - 1 (default: those of the table)")
    parser.add_argument("--max-samples", type=int, help="length of the stream (default: all of it)")
    parser.add_argument("--backbone", help="one backbone in place of all, by the name of its configuration")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of all cells; may be repeated"
    )
    add_run_options(parser, "runs/reproduce")
    return parser
