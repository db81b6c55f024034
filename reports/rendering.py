"""A report as pages of HTML, Markdown and LaTeX: text by Jinja's templates, tables by pandas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtune.experiments.escaping import plain
from filtune.lightning_modules.atomic import atomic_write

from . import class_tables, formatting, section_tables
from .agreement import Agreement
from .cells import Status
from .document import Document
from .listings import Listing
from .plots import INK
from .section_tables import listing_frame, section_frame
from .sections import Section
from .styled import LANGUAGES, escape_tex, html_table, latex_table, markdown_table

if TYPE_CHECKING:
    from jinja2 import Environment
    from pandas import DataFrame


def render_html(document: Document, folder: Path) -> Path:
    """Write the HTML page, in one file, and return its path."""
    return _write(folder / "index.html", _render("index.html.j2", document=document))


def render_markdown(part: Section | Listing, folder: Path, left_out: Sequence[str] = ()) -> Path:
    """Write a table as Markdown, with what was left out of the report, and return its path."""
    template = "section.md.j2" if isinstance(part, Section) else "listing.md.j2"
    return _write(folder / f"{part.slug}.md", _render(template, part=part, left_out=left_out))


def render_latex(part: Section | Listing, folder: Path, left_out: Sequence[str] = ()) -> Path:
    """Write a table as LaTeX, for a document with booktabs, and return its path; what was left out is a comment."""
    if isinstance(part, Section):
        scale = f" Scaled down: {escape_tex(part.scale_words)}." if part.pool.scale else ""
        signs = ", ".join(f"{status.tex}~{status.word}" for status in Status if status.tex)
        caption = (
            f"{escape_tex(part.table.title)}.{scale} Ours above, published below in italics; the best of a column is "
            f"bold, ours and published apart. {signs}."
        )
        frame = section_frame(part, _words("tex"))
    else:
        caption = f"{escape_tex(part.title)}; the best of a column is bold."
        frame = listing_frame(part, part.metrics, _words("tex"), LANGUAGES["tex"])
    comments = [f"% left out: {plain(message)}" for message in left_out]
    return _write(
        folder / f"{part.slug}.tex", "\n".join(["% needs booktabs", latex_table(frame, caption, part.slug), *comments])
    )


def _render(template: str, **values: Any) -> str:
    return re.sub(r"\n{3,}", "\n\n", _environment(template.split(".")[1]).get_template(template).render(**values))


def _write(path: Path, text: str) -> Path:
    with atomic_write(path, "wb") as file:
        file.write((text.strip() + "\n").encode("utf-8", "replace"))
    return path


def _words(language: str) -> Any:
    """Return the macros of a language, whose texts are in one line."""
    return _environment(language).get_template(f"macros.{language}.j2").module


@cache
def _environment(language: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    markup = LANGUAGES[language]

    def table(frame: DataFrame, name: str = "") -> str:
        return html_table(frame, name) if language == "html" else markdown_table(frame)

    environment = Environment(
        loader=PackageLoader("filtune.reports"),
        autoescape=language == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        formatting=formatting, tables=section_tables, classes=class_tables, table=table, markup=markup, Status=Status,
        Agreement=Agreement, INK=INK,
    )  # fmt: skip
    environment.filters.update(esc=markup.escape, strong=markup.strong, plain=plain)
    return environment
