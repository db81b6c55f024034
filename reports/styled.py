"""Data frames of texts as tables of Markdown, LaTeX and HTML, through pandas' Styler.

The index of a frame has the titles of its rows, its columns those of the columns, and the name of its columns is the
corner. All of them are markup already: who makes a text escapes what a stranger may have written, by a :class:`Markup`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from filtune.experiments.escaping import escape_markdown, plain

from .formatting import DASH, MINUS

if TYPE_CHECKING:
    from pandas import DataFrame

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "|": r"\textbar{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$",
    ">": r"$>$", MINUS: r"$-$", DASH: "--", "†": r"$\dagger$",
}  # fmt: skip


def escape_tex(text: Any) -> str:
    """Return text escaped for LaTeX; Styler's own escape leaves signs that need a package."""
    return "".join(_TEX.get(c, c) for c in plain(text))


class Markup(NamedTuple):
    """Escapes of a language, and its patterns for bold, light, prose, shaded cells, images and lines below.

    A shade takes a text and a share, an image a text that stands for it and a PNG in base64.
    """

    escape: Callable[[Any], str]
    bold: str
    aside: str = " ({})"
    prose: str = "{}"
    shade: str = "{}"
    image: str = "{}"
    below: str = "<br>{}"
    tie: str = "\u00a0"

    def strong(self, text: str, is_bold: bool = True) -> str:
        """Return a text escaped, in bold if it is to be."""
        return self.bold.format(self.escape(text)) if is_bold else self.escape(text)

    def stack(self, lines: Sequence[str], is_bold: bool = False) -> str:
        """Return the lines of a cell escaped, the first in bold if it is to be; spaces that do not break are kept."""
        first, *others = [self.tie.join(map(self.escape, line.split("\u00a0"))) for line in lines] or [""]
        return (self.bold.format(first) if is_bold else first) + "".join(map(self.below.format, others))


LANGUAGES = {
    "md": Markup(escape_markdown, "**{}**"),
    "tex": Markup(escape_tex, r"\textbf{{{}}}", below=r" {{\footnotesize {}}}", tie="~"),
    "html": Markup(
        lambda text: html.escape(plain(text)),
        '<span class="best">{}</span>',
        '<span class="sub">{}</span>',
        '<span class="prose">{}</span>',
        '<span class="shade" style="--share: {1:.3f}">{0}</span>',
        '<img alt="{0}" src="data:image/png;base64,{1}">',
        '<span class="sub">{}</span>',
    ),
}


def text_frame(corner: str, heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> DataFrame:
    """Return a frame of texts.

    Args:
        corner: Text above the titles of the rows.
        heads: Titles of the columns, of the same number of lines each.
        rows: The title and the texts of each row.
    """
    from pandas import DataFrame, Index, MultiIndex

    titles, texts = zip(*rows, strict=True) if (rows := list(rows)) else ((), ())
    lines = [tuple(head.split("\n")) for head in heads]
    several = bool(lines) and len(lines[0]) > 1
    columns = MultiIndex.from_tuples(lines) if several else Index(heads, name=corner, dtype=object)
    return DataFrame([*texts], Index(titles, dtype=object), columns, dtype=object)


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


def html_table(frame: DataFrame, name: str) -> str:
    """Return a table of HTML without a style of its own; its name is unique on the page."""
    return frame.style.to_html(table_uuid=name, cell_ids=False).partition("</style>")[2].strip()
