"""A table of a paper, and a list of runs, as parts of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from filtune.experiments.escaping import escape_markdown

from .agreement import Agreement
from .cells import Status
from .class_tables import Predictions, class_frame, confusion_frame, worst_frame
from .figures import FigurePlan
from .listings import Listing
from .page import Block, Cards, Chips, CommandBlock, Fold, Heading, PagePart, TableBlock, Text, bullets
from .section_tables import listing_frame, order_frame, runs_frame, section_frame
from .sections import Section
from .styled import Markup, escape_tex

if TYPE_CHECKING:
    from pandas import DataFrame

CLASSES = (
    "Predictions of the stream, each made before the update on it; all seeds together. P is precision, R recall, in "
    "per cent."
)
CONFUSIONS = "Samples by true class (row) and predicted class (column); the shade is the share of the true class."
WORST = (
    "The samples with the largest prequential loss: look here for wrong labels and for what the model does not know "
    "yet. The first samples of a stream are predicted by a model that has learned nothing."
)


def section_part(section: Section, plans: list[FigurePlan], is_folded: bool = False) -> PagePart:
    """Return a table at one scale as a part: ours beside the published figures, and the order of the methods.

    Args:
        section: The section.
        plans: Of its figures.
        is_folded: Whether it is collapsed on a page.
    """
    scaled, words = bool(section.pool.scale), escape_markdown(section.scale_words)
    cells = [
        (section, row, leaf, cell)
        for row in section.rows()
        for leaf in section.columns()
        if (cell := section.cells.get((row.name, leaf.key)))
    ]
    blocks: list[Block] = [
        Text(f"Scaled down: {words}.", "scale scaled-down") if scaled else Text(f"{words}: full runs.", "scale full"),
        CommandBlock(section.command()),
        Text(
            "Ours, mean ± standard deviation over seeds, above the paper's; the best of a column is bold, ours and the "
            "paper's apart.",
            only="md",
        ),
        TableBlock(lambda _, macros: section_frame(section, macros), _caption(section)),
        Cards("cell_card", cells),
        Text(", ".join(f"{s.sign} {s.word}" for s in Status if s is not Status.OURS) + ".", only="md"),
        *(_orders(section) if section.orders else []),
        *plans,
        *bullets([escape_markdown(note) for note in section.notes()], "notes"),
    ]
    counts = [(status.slug, f"{status.sign} {count}", status.word) for status, count in section.counts().items()]
    about = [section.scale_words, section.title]
    return PagePart(section.slug, section.title, blocks, plans, section.table.name, about, counts, is_folded)


def _caption(section: Section) -> str:
    """Return the caption in LaTeX."""
    scale = f" Scaled down: {escape_tex(section.scale_words)}." if section.pool.scale else ""
    signs = ", ".join(f"{status.tex}~{status.word}" for status in Status if status.tex)
    return (
        f"{escape_tex(section.title)}.{scale} Ours above, published below in italics; the best of a column is bold, "
        f"ours and published apart. {signs}."
    )


def _orders(section: Section) -> list[Block]:
    counts = section.verdicts()
    return [
        Heading("Is the order the paper's?"),
        Text(
            f"{'Ratio' if section.timed else 'Difference'} to AdamW in the paper and here, tested paired by seed; ≈ is "
            "within noise, a sign in brackets is untested.",
            only="md",
        ),
        Chips("Against AdamW:", [(v.slug, f"{v.sign} {counts[v]} {v.word}") for v in Agreement if counts[v]]),
        TableBlock(lambda _, macros: order_frame(section, macros)),
    ]


def listing_part(listing: Listing) -> PagePart:
    """Return a list of runs as a part: which is best, and collapsed their classes, all metrics, and each run."""
    plan, answer = listing.plan(), listing.answer()
    caption = f"{escape_tex(listing.title)}; the best of a column is bold."

    def metrics(names: Sequence[str], caption: str = "") -> TableBlock:
        return TableBlock(lambda markup, macros: listing_frame(listing, names, macros, markup), caption)

    has_more = len(listing.metrics) > len(listing.first_metrics)
    blocks: list[Block] = [
        Text(escape_markdown(answer), "answer"),
        metrics(listing.first_metrics, "" if has_more else caption),
        plan,
        *_classes(listing),
        *([Fold("All metrics", [metrics(listing.metrics, caption)])] if has_more else []),
        Fold(
            f"Each run: {listing.note or 'seeds, samples and time'}",
            [TableBlock(lambda markup, _: runs_frame(listing, markup))],
        ),
    ]
    return PagePart(listing.slug, listing.title, blocks, [plan], about=[answer])


def _classes(listing: Listing) -> list[Block]:
    """Return what runs of a classification have kept of their predictions."""

    def beside(frame: Callable[[Predictions, Markup], DataFrame], found: list[tuple[str, Predictions]]) -> list[Any]:
        """Return a column of each configuration, its name above its table."""
        tables = [(name, TableBlock(lambda markup, _, p=p: frame(p, markup))) for name, p in found]
        return [[Heading(escape_markdown(name)), table] for name, table in tables]

    blocks: list[Block] = []
    if counted := listing.counted:
        scores = TableBlock(lambda markup, _: class_frame(counted, markup))
        blocks.append(Fold("By class: precision, recall and F1", [Text(CLASSES, "muted"), scores]))
        blocks.append(Fold("Confusion matrices", [Text(CONFUSIONS, "muted")], beside(confusion_frame, counted)))
    if predicted := listing.predicted:
        blocks.append(Fold("Samples with the largest loss", [Text(WORST, "muted")], beside(worst_frame, predicted)))
    return blocks
