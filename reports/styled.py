"""Data frames of texts as tables of Markdown, LaTeX and HTML, through pandas' Styler.

The index of a frame has the titles of its rows, its columns those of the columns, and the name of its columns is the
corner. All of them are markup already: who makes a text escapes what a stranger may have written, by a :class:`Markup`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from filtune.experiments.escaping import escape_markdown, plain

from .formatting import DASH, MINUS

if TYPE_CHECKING:
    from pandas import DataFrame

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$",
    ">": r"$>$", MINUS: r"$-$", DASH: "--",
}  # fmt: skip


def escape_tex(text: Any) -> str:
    """Return text escaped for LaTeX; Styler's own escape leaves signs that need a package."""
    return "".join(_TEX.get(c, c) for c in plain(text))


class Markup(NamedTuple):
    """A language of tables.

    Attributes:
        escape: Escapes a text.
        bold: Form of a bold text.
        table: Writes a frame.
    """

    escape: Callable[[Any], str]
    bold: str

    def strong(self, text: str, is_bold: bool = True) -> str:
        """Return a text escaped, in bold if it is to be."""
        return self.bold.format(self.escape(text)) if is_bold else self.escape(text)


MARKDOWN = Markup(escape_markdown, "**{}**")
LATEX = Markup(escape_tex, r"\textbf{{{}}}")
HTML = Markup(lambda text: html.escape(plain(text)), '<span class="best">{}</span>')


def text_frame(corner: str, heads: Sequence[Any], rows: Iterable[tuple[str, Sequence[str]]]) -> DataFrame:
    """Return a frame of texts.

    Args:
        corner: Text above the titles of the rows.
        heads: Titles of the columns; several lines of each where they are tuples.
        rows: The title and the texts of each row.
    """
    from pandas import DataFrame, Index, MultiIndex

    kept = list(rows)
    tuples = bool(heads) and isinstance(heads[0], tuple)
    columns = MultiIndex.from_tuples(heads) if tuples else Index(heads, name=corner, dtype=object)
    texts = [list(texts) for _, texts in kept]
    return DataFrame(texts, Index([title for title, _ in kept], dtype=object), columns, dtype=object)


def markdown_table(frame: DataFrame) -> str:
    """Return a table in Markdown, its first column to the left and the others to the right."""
    head, *lines = frame.style.to_string(delimiter=" | ").rstrip("\n").split("\n")
    rule = " | ".join(["---", *("---:" for _ in frame.columns)])
    return "\n".join(f"| {line} |" for line in [head, rule, *lines])


def latex_table(frame: DataFrame, caption: str, label: str) -> str:
    """Return a floating table of LaTeX for a document with booktabs, its first column to the left."""
    small = {"selector": "small", "props": [("", "")]}
    return frame.style.set_table_styles([small]).to_latex(
        hrules=True, position_float="centering", column_format="l" + "r" * len(frame.columns), sparse_columns=False,
        caption=caption, label=f"tab:{label.replace('_', '-')}",
    )  # fmt: skip


def html_table(frame: DataFrame, name: str, classes: DataFrame | None = None) -> str:
    """Return a table of HTML without a style of its own.

    Args:
        frame: The texts.
        name: Unique on the page.
        classes: The class of each cell in the style sheet.
    """
    style = frame.style if classes is None else frame.style.set_td_classes(classes)
    return re.sub(r"<style.*?</style>\s*", "", style.to_html(table_uuid=name, cell_ids=False), count=1, flags=re.S)
