"""The tables of a report as frames of texts: ours beside the published, the order of the methods, listings, seeds.

The texts of cells are of macros, ``macros.LANGUAGE.j2``, one file a language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from filtune.experiments.estimate import format_duration
from filtune.experiments.records import Record
from filtune.experiments.tables import Row

from .cells import CellResult
from .formatting import DASH, format_mean_std, format_metric, metric_title
from .listings import Entry, Listing
from .sections import Section
from .styled import Markup, text_frame

if TYPE_CHECKING:
    from pandas import DataFrame

HEADINGS = {
    "paper": "The paper's methods",
    "tuned": "Tuned baselines (ours, not in the paper)",
    "ours": "Further methods (ours, not in the paper's table)",
}


def section_frame(section: Section, words: Any) -> DataFrame:
    """Return the table of a section, with a heading above the rows of each kind where the language has one.

    Args:
        section: The section.
        words: Macros of the language.
    """
    leaves, rows = section.columns(), []
    best = {leaf.key: (section.best(leaf, False), section.best(leaf, True)) for leaf in leaves}

    def texts(row: Row, macro: Any) -> list[str]:
        cells = [(leaf, section.cells.get((row.name, leaf.key))) for leaf in leaves]
        return [
            macro(section, row, leaf, cell, *(row.name in names for names in best[leaf.key])) if cell else ""
            for leaf, cell in cells
        ]

    for kind, heading in HEADINGS.items():
        found = section.rows(kind)
        if found and (text := words.heading(kind, heading, bool(rows))):
            rows.append((text, [""] * len(leaves)))
        for row in found:
            rows.append((words.row_head(section, row), texts(row, words.cell)))
            if kind == "paper" and hasattr(words, "published"):  # on a line of its own
                rows.append(("", texts(row, words.published)))
    return text_frame(words.corner(section), [words.column_head(section, leaf) for leaf in leaves], rows)


def order_frame(section: Section, words: Any) -> DataFrame:
    """Return the table of the order of the methods: the best of a column, and each method against AdamW."""
    leaves = section.ordered()

    def texts(row: str) -> list[str]:
        found = [section.orders.get((row, leaf.key)) for leaf in leaves]
        return [words.order(order) if order else "" for order in found]

    compared = {row for row, _ in section.orders}
    rows = [("best of the column", texts(""))]
    rows += [(words.row_head(section, row), texts(row.name)) for row in section.rows("paper") if row.name in compared]
    return text_frame("against AdamW", [words.column_head(section, leaf) for leaf in leaves], rows)


def listing_frame(listing: Listing, metrics: Sequence[str], words: Any, markup: Markup) -> DataFrame:
    """Return the table of the configurations of a listing: their seeds and metrics, the best of a column in bold."""
    best = {metric: listing.best(metric) for metric in metrics}

    def shown(entry: Entry, metric: str) -> str:
        sample = entry.sample(metric)
        if sample is None and not any(record["status"] == "finished" for record in entry.records.values()):
            return "diverged" if entry.records else "not run"
        return markup.strong(format_mean_std(sample, metric), sample is not None and sample.mean == best[metric])

    rows = (
        (words.entry_head(entry), [str(len(entry.records)), *(shown(entry, m) for m in best)])
        for entry in listing.entries
    )
    return text_frame("configuration", ["seeds", *(markup.escape(metric_title(metric)) for metric in best)], rows)


def runs_frame(listing: Listing, markup: Markup) -> DataFrame:
    """Return the table of all runs of a listing: seed, metric, sizes, time and folder."""
    rows = []
    for entry in listing.entries:
        frame = seeds_frame(entry.records, entry.values(listing.metric), listing.metric, markup)
        for (seed, texts), record in zip(frame.iterrows(), entry.records.values(), strict=True):
            place = record.get("folder") or f"record {record.get('key')}"
            rows.append((markup.escape(entry.name), [str(seed), *texts, markup.escape(place)]))
    return text_frame("run", ["seed", *seeds_heads(listing.metric, markup), "folder"], rows)


def seeds_heads(metric: str, markup: Markup) -> list[str]:
    """Return the titles of the columns of a table of runs, after the seed."""
    return [markup.escape(metric_title(metric)), "samples", "steps", "time"]


def seeds_frame(records: Mapping[int, Record], values: Mapping[int, float], metric: str, markup: Markup) -> DataFrame:
    """Return the table of the runs of a cell, seed by seed."""

    def texts(seed: int, record: Record) -> list[str]:
        value = "diverged" if record["status"] == "diverged" else format_metric(values.get(seed), metric)
        sizes = [f"{record[size]:,}" if record.get(size) else DASH for size in ("samples", "steps")]
        return [value, *sizes, format_duration(record["times"].get("wall_seconds") or None) or DASH]

    rows = ((str(seed), texts(seed, record)) for seed, record in records.items())
    return text_frame("seed", seeds_heads(metric, markup), rows)


def points_frame(cell: CellResult, metric: str, markup: Markup) -> DataFrame:
    """Return the table of the points of a cell's grid, the chosen one in bold."""
    rows = []
    for point in cell.points:
        sample = point.sample(metric)
        text = "diverged" if point.diverged and not sample else format_mean_std(sample, metric)
        bold = markup.strong(text, point.name == cell.point.name)
        rows.append((markup.escape(point.setting), [bold, str(len(point.values(metric)))]))
    return text_frame("setting", [markup.escape(metric_title(metric)), "seeds"], rows)
