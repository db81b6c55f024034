"""The tables of a report's parts in each language: ours beside the published, the order of the methods, listings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from filtune.experiments.estimate import format_duration
from filtune.experiments.records import Record
from filtune.experiments.tables import Row

from .agreement import Claim
from .cells import CellResult
from .formatting import (
    CROSS,
    DASH,
    format_difference,
    format_mean_std,
    format_metric,
    format_p,
    format_published,
    metric_title,
)
from .listings import Entry, Listing
from .sections import Leaf, Section
from .seed_runs import SeedRuns
from .styled import HTML, LATEX, MARKDOWN, Markup, html_table, latex_table, markdown_table, text_frame

if TYPE_CHECKING:
    from pandas import DataFrame

HEADINGS = {
    "paper": "The paper's methods",
    "tuned": "Tuned baselines (ours, not in the paper)",
    "ours": "Further methods (ours, not in the paper's table)",
}
MARKS = {"paper": "", "tuned": " (tuned, ours)", "ours": " (ours)"}

Shown = Callable[[Row, Leaf, CellResult], str]
"""Text of a cell."""


def _texts(section: Section, row: Row, leaves: list[Leaf], shown: Shown) -> list[str]:
    cells = [section.cells.get((row.name, leaf.key)) for leaf in leaves]
    return [shown(row, leaf, cell) if cell else "" for leaf, cell in zip(leaves, cells, strict=True)]


def _head(section: Section, leaf: Leaf, markup: Markup) -> str:
    named = section.names_metric(leaf)
    return markup.escape(leaf.title) + (f", {markup.escape(metric_title(leaf.metric))}" if named else "")


def _ratio(cell: CellResult, published: bool, section: Section, form: str) -> str:
    """A time as a multiple of AdamW's, where times are shown."""
    ratio = cell.ratio[published]
    return form.format(f"{ratio:.2f}") if section.timed and ratio is not None else ""


def _best(section: Section) -> dict[tuple[str, bool], set[str]]:
    """The rows with the best value of each column, ours and published."""
    return {(leaf.key, which): section.best(leaf, which) for leaf in section.columns() for which in (False, True)}


def _claimed(section: Section, claim: Claim, cell: CellResult, leaf: Leaf) -> tuple[str, str]:
    """The published comparison with AdamW and ours: differences, of times ratios."""
    if section.timed:
        ours, published = cell.ratio
        return f"{published:.2f}{CROSS}", f"{ours:.2f}{CROSS}"
    return format_difference(claim.published, leaf.metric), format_difference(claim.ours, leaf.metric)


def section_markdown(section: Section) -> str:
    """Return the table of a section in Markdown: ours, and below it the published figure."""
    leaves, best = section.columns(), _best(section)

    def shown(row: Row, leaf: Leaf, cell: CellResult) -> str:
        ours = MARKDOWN.strong(format_mean_std(cell.ours, leaf.metric), row.name in best[leaf.key, False])
        parts = [ours if cell.ours else "", _ratio(cell, False, section, f"({{}}{CROSS})"), cell.status.sign]
        parts.append(MARKDOWN.escape(cell.point.name))
        text = " ".join(filter(None, parts))
        if not cell.published:
            return text
        printed = MARKDOWN.strong(format_published(cell.published, leaf.metric), row.name in best[leaf.key, True])
        more = _ratio(cell, True, section, f" ({{}}{CROSS})")
        if not section.timed and cell.difference is not None:
            tests = [f"p {format_p(cell.test.p)}", f"Holm {format_p(cell.adjusted)}"] if cell.test else []
            more = f" ({', '.join([format_difference(cell.difference, leaf.metric), *map(MARKDOWN.escape, tests)])})"
        return f"{text}<br>{printed}{more}"

    rows = [(MARKDOWN.escape(row.title) + MARKS[kind], row) for kind in MARKS for row in section.rows(kind)]
    heads = [_head(section, leaf, MARKDOWN) for leaf in leaves]
    return markdown_table(text_frame("method", heads, ((t, _texts(section, row, leaves, shown)) for t, row in rows)))


def section_latex(section: Section, caption: str) -> str:
    """Return the table of a section in LaTeX: ours, and on a line of its own below it the published figures."""
    leaves, tex, best = section.columns(), LATEX.escape, _best(section)

    def ours(row: Row, leaf: Leaf, cell: CellResult) -> str:
        text = LATEX.strong(format_mean_std(cell.ours, leaf.metric), row.name in best[leaf.key, False])
        return text + cell.status.tex + _ratio(cell, False, section, r" (${}\times$)")

    def published(row: Row, leaf: Leaf, cell: CellResult) -> str:
        if not cell.published:
            return ""
        text = rf"\textit{{{tex(format_published(cell.published, leaf.metric))}}}"
        bold = LATEX.bold.format(text) if row.name in best[leaf.key, True] else text
        return bold + _ratio(cell, True, section, r" (${}\times$)")

    def lines() -> Iterator[tuple[str, list[str]]]:
        above = ""  # rules and a heading before the first row of a kind
        for kind, heading in HEADINGS.items():
            name = rf"\multicolumn{{{len(leaves) + 1}}}{{l}}{{{heading.partition(' (')[0]} (ours)}} \\"
            for number, row in enumerate(section.rows(kind)):
                start = f"{above}{name}\n" if number == 0 and kind != "paper" else ""
                yield start + tex(row.title), _texts(section, row, leaves, ours)
                if kind == "paper":
                    yield "", _texts(section, row, leaves, published)
                above = "\\midrule\n"

    metrics = section.timed or section.mixed()
    heads = [(tex(x.data), tex(x.model), *([tex(metric_title(x.metric))] if metrics else [])) for x in leaves]
    return latex_table(text_frame("", heads, lines()), caption, section.slug)


def order_markdown(section: Section) -> str:
    """Return the table of the order of the methods in Markdown: the best of a column, and each against AdamW."""
    leaves, escape = section.ordered(), MARKDOWN.escape

    def best(leaf: Leaf) -> str:
        winner = section.winner(leaf)
        if not winner:
            return ""
        names = [escape(section.titles(names)) for names in (winner.published, [winner.ours])]
        p = "" if winner.p is None else f", p {escape(format_p(winner.p))}"
        return f"{winner.verdict.sign} paper {names[0]}, ours {names[1]}{p}"

    def shown(row: Row, leaf: Leaf, cell: CellResult) -> str:
        claim = section.claims.get((row.name, leaf.key))
        if not claim:
            return ""
        both = _claimed(section, claim, cell, leaf)
        p = "" if claim.p is None else f", p {escape(format_p(claim.p))}"
        return f"{claim.verdict.sign} {both[0]}, here {both[1]}{p}"

    rows = [("best of the column", [best(leaf) for leaf in leaves])]
    rows += [
        (escape(row.title), _texts(section, row, leaves, shown))
        for row in section.rows("paper")
        if section.claimed(row)
    ]
    return markdown_table(text_frame("against AdamW", [_head(section, leaf, MARKDOWN) for leaf in leaves], rows))


def section_html(section: Section, macros: Any) -> str:
    """Return the table of a section in HTML, with a heading above the rows of each kind.

    Args:
        section: The section.
        macros: Those of ``macros.html.j2``.
    """
    leaves, best = section.columns(), _best(section)

    def shown(row: Row, leaf: Leaf, cell: CellResult) -> str:
        bold = [row.name in best[leaf.key, published] for published in (False, True)]
        return macros.cell_body(section, row, leaf, cell, *bold)

    rows: list[tuple[str, list[str]]] = []
    for kind, heading in HEADINGS.items():
        found = section.rows(kind)
        rows += [(macros.heading(heading), [""] * len(leaves))] if found else []
        for row in found:
            rows.append(
                (macros.row_head(section.looks[row.name], row.title, kind), _texts(section, row, leaves, shown))
            )
    corner = "" if section.timed else HTML.escape(metric_title(section.table.metric))
    heads = [macros.column_head(section, leaf) for leaf in leaves]
    return html_table(text_frame(corner, heads, rows), f"{section.slug}-table")


def order_html(section: Section, macros: Any) -> str:
    """Return the table of the order of the methods in HTML."""
    leaves = section.ordered()

    def shown(row: Row, leaf: Leaf, cell: CellResult) -> str:
        claim = section.claims.get((row.name, leaf.key))
        return macros.claim(claim, *_claimed(section, claim, cell, leaf)) if claim else ""

    winners = [section.winner(leaf) for leaf in leaves]
    rows = [("best of the column", [macros.winner(section, found) if found else "" for found in winners])]
    for row in filter(section.claimed, section.rows("paper")):
        head = macros.row_head(section.looks[row.name], row.title, "paper")
        rows.append((head, _texts(section, row, leaves, shown)))
    heads = [macros.column_head(section, leaf) for leaf in leaves]
    return html_table(text_frame("against AdamW", heads, rows), f"{section.slug}-order")


def _listing(listing: Listing, markup: Markup, label: Callable[[int, Entry], str] | None = None) -> DataFrame:
    """The configurations of a listing, their seeds and metrics, the best of a column in bold."""
    best = {metric: listing.best(metric) for metric in listing.metrics}

    def shown(entry: Entry, metric: str) -> str:
        sample = entry.sample(metric)
        if sample is None and not any(r["status"] == "finished" for r in entry.records.values()):
            return "diverged" if entry.records else "not run"
        return markup.strong(format_mean_std(sample, metric), sample is not None and sample.mean == best[metric])

    rows = [
        (label(number, entry) if label else markup.escape(entry.name),
         [str(len(entry.records)), *(shown(entry, metric) for metric in listing.metrics)])
        for number, entry in enumerate(listing.entries, 1)
    ]  # fmt: skip
    heads = ["seeds", *(markup.escape(metric_title(metric)) for metric in listing.metrics)]
    return text_frame(f"sorted by {markup.escape(metric_title(listing.metric))}", heads, rows)


def listing_markdown(listing: Listing) -> str:
    """Return the table of a listing in Markdown."""
    return markdown_table(_listing(listing, MARKDOWN))


def listing_latex(listing: Listing, caption: str) -> str:
    """Return the table of a listing in LaTeX."""
    return latex_table(_listing(listing, LATEX), caption, listing.slug)


def listing_html(listing: Listing, macros: Any) -> str:
    """Return the table of a listing in HTML; the label of a configuration opens its card."""
    frame = _listing(listing, HTML, lambda number, entry: macros.entry_head(listing, entry, number))
    return html_table(frame, f"{listing.slug}-table")


def seeds_html(name: str, records: Mapping[int, Record], values: Mapping[int, float], metric: str) -> str:
    """Return the table of the runs of a cell in HTML, seed by seed."""

    def texts(seed: int, record: Record) -> list[str]:
        value = "diverged" if record["status"] == "diverged" else format_metric(values.get(seed), metric)
        sizes = [f"{record[size]:,}" if record.get(size) else DASH for size in ("samples", "steps")]
        return [value, *sizes, format_duration(record["times"].get("wall_seconds")) or DASH]

    heads = [HTML.escape(metric_title(metric)), "samples", "steps", "time"]
    return html_table(text_frame("seed", heads, ((str(s), texts(s, r)) for s, r in records.items())), f"{name}-seeds")


def points_html(name: str, cell: CellResult, metric: str) -> str:
    """Return the table of the points of a cell's grid in HTML, the chosen one in bold."""

    def texts(point: SeedRuns) -> list[str]:
        sample = point.sample(metric)
        text = "diverged" if point.diverged and not sample else format_mean_std(sample, metric)
        return [HTML.strong(text, point.name == cell.point.name), str(len(point.values(metric)))]

    rows = ((HTML.escape(point.name), texts(point)) for point in cell.points)
    return html_table(text_frame("setting", [HTML.escape(metric_title(metric)), "seeds"], rows), f"{name}-points")
