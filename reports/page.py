"""The page model: a report has parts, a part has blocks, and :mod:`.rendering` writes them in each language.

Prose is Markdown: whoever puts a text into it escapes what a stranger may have written, by
:func:`filtune.experiments.escaping.escape_markdown`. Tables are data frames of texts, made in the language that is
written, for their cells have markup of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .figures import FigurePlan
from .styled import Markup

if TYPE_CHECKING:
    from pandas import DataFrame


class Text(NamedTuple):
    """Paragraphs or a list.

    Attributes:
        markdown: The text.
        style: Class of the paragraph on a page of HTML.
        only: The language that has it, ``md`` or ``html``; both by default.
    """

    markdown: str
    style: str = ""
    only: str = ""


class Heading(NamedTuple):
    """A heading, and how many levels it is below the title of the part."""

    markdown: str
    depth: int = 1


class TableBlock(NamedTuple):
    """A table of texts with a caption.

    Attributes:
        frame: Makes the frame of texts, of the language and its macros.
        caption: The caption in LaTeX, which leaves out a table without one.
    """

    frame: Callable[[Markup, Any], DataFrame]
    caption: str = ""


class Fold(NamedTuple):
    """Blocks that are collapsed below a summary, those of a column side by side where there are several."""

    summary: str
    blocks: Sequence[Block]
    columns: Sequence[Sequence[Block]] = ()


class Chips(NamedTuple):
    """A text and coloured words after it, each with its class in the style sheet."""

    text: str
    chips: Sequence[tuple[str, str]]


class CommandBlock(NamedTuple):
    """A command of the terminal."""

    text: str


class Cards(NamedTuple):
    """Cards that a click shows on a page of HTML: a macro, and its arguments for each."""

    macro: str
    arguments: Sequence[Sequence[Any]]


Block = Text | Heading | TableBlock | Fold | Chips | CommandBlock | Cards | FigurePlan
"""A figure is shown where its plan stands, if anything of it was drawn."""


@dataclass
class PagePart:
    """A part of a report.

    Attributes:
        slug: Its name in files and addresses.
        title: Its title.
        blocks: What it consists of.
        plans: The plans of all figures, to be drawn before it is written.
        label: Its name in the table of contents, by default the title.
        about: What the table of contents says of it, in lines.
        chips: Class, text and meaning of the counts there.
        is_folded: Whether it is collapsed on a page.
        summary: Markdown before the first part of a page with several.
    """

    slug: str
    title: str
    blocks: list[Block]
    plans: list[FigurePlan] = field(default_factory=list)
    label: str = ""
    about: Sequence[str] = ()
    chips: Sequence[tuple[str, str, str]] = ()
    is_folded: bool = False
    summary: str = ""

    def tables(self) -> Iterator[TableBlock]:
        """Yield all tables, those that are collapsed among them."""
        return _tables(self.blocks)


def _tables(blocks: Sequence[Block]) -> Iterator[TableBlock]:
    for block in blocks:
        if isinstance(block, TableBlock):
            yield block
        elif isinstance(block, Fold):
            yield from _tables([*block.blocks, *(each for column in block.columns for each in column)])


def bullets(texts: Sequence[str], style: str = "") -> list[Block]:
    """Return a list of texts; no block of none."""
    return [Text("\n".join(f"* {text}" for text in texts), style)] if texts else []
