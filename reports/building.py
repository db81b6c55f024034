"""A table at one scale, built from its records: every cell judged, every method compared with AdamW."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from filtune.experiments.tables import Row, Table

from . import words
from .cells import make_cell, with_ratio
from .order import claims, winners
from .palette import looks
from .reading import Archive, Pool, load, sources
from .sections import Leaf, Section
from .statistics import Sample, holm


def build(table: Table, pool: Pool, archive: Archive) -> Section:
    """Judge a table's cells and compare their order."""
    kinds = {row.name: _kind(row) for row in table.rows}
    leaves = [
        Leaf(column, metric, _lower(table, metric), pool.scale.get("backbone"))
        for column in table.columns
        for metric in table.raw.get("metrics", [column.metric or table.metric])
    ]
    chosen_by = {leaf.key: _chooser(table, leaf) for leaf in leaves}
    reference = {row.name: _reference(table, row) for row in table.rows}
    cells = {
        (row.name, leaf.key): make_cell(
            archive, pool, f"{row.name}/{leaf.column.name}", leaf.metric, leaf.lower,
            _published(table, row, leaf), chosen_by[leaf.key],
        )
        for row in table.rows
        for leaf in leaves
        if row.columns is None or leaf.column.name in row.columns
    }  # fmt: skip
    adjusted = holm([cell.test and cell.test.p for cell in cells.values()])
    cells = {key: replace(cell, adjusted=p) for (key, cell), p in zip(cells.items(), adjusted, strict=True)}
    if "metrics" in table.raw:
        before = dict(cells)
        for (row, leaf), cell in before.items():
            if (reference[row], leaf) in before:
                cells[row, leaf] = with_ratio(cell, before[reference[row], leaf])
    tones = looks([(row.name, row.optimizer, kinds[row.name]) for row in table.rows])
    section = Section(table, pool, kinds, leaves, cells, tones, reference, str(archive.roots[0]))
    paper = [row.name for row in table.rows if kinds[row.name] == "paper"]
    for leaf in leaves:
        column = {row: cells[row, leaf.key] for row in paper if (row, leaf.key) in cells}
        section.winners += winners(leaf.key, column, leaf.lower)
        section.claims.update(claims(leaf.key, column, reference, leaf.lower))
    return section


def _kind(row: Row) -> str:
    return "paper" if row.published else "tuned" if row.grid else "ours"


def _lower(table: Table, metric: str) -> bool:
    better = table.raw.get("higher_is_better")
    return words.lower_is_better(metric) if better is None else not better


def _chooser(table: Table, leaf: Leaf) -> str:
    """The metric by which a grid's best point is chosen: of a table of times, that of the table it looks at."""
    if "of" not in table.raw:
        return leaf.metric
    own = next(t for t in sources(table) if any(column.name == leaf.column.name for column in t.columns))
    column = next(column for column in load(own.name).columns if column.name == leaf.column.name)
    return column.metric or own.metric


def _reference(table: Table, row: Row) -> str:
    """AdamW as the paper has it, with the adapter of the row."""
    rivals = [r for r in table.rows if r.optimizer.startswith("adamw") and r.published]
    same = [r for r in rivals if _adapter(r) == _adapter(row)]
    return (same or rivals or [row])[0].name


def _adapter(row: Row) -> Any:
    return row.set.get("model.backbone.adapter")


def _published(table: Table, row: Row, leaf: Leaf) -> Sample | None:
    if not row.published:
        return None
    printed = row.published[table.columns.index(leaf.column)]
    if printed is not None and "metrics" in table.raw:
        printed = printed[table.raw["metrics"].index(leaf.metric)]
    mean, deviation = printed if isinstance(printed, list) else (printed, None)
    return None if mean is None else Sample(mean, deviation, table.raw.get("published_seeds"))
