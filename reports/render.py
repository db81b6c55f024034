"""The report's pages, from the templates."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import words
from .document import Document
from .listings import Listing
from .order import Verdict
from .sections import Section
from .status import Status

if TYPE_CHECKING:
    from jinja2 import Environment

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$",
    ">": r"$>$", words.MINUS: r"$-$", words.DASH: "--",
}  # fmt: skip


def page(document: Document, folder: Path) -> Path:
    """The HTML page, in one file."""
    return _write(folder / "index.html", "index.html.j2", document=document)


def markdown(part: Section | Listing, folder: Path) -> Path:
    """A table as Markdown."""
    return _write(folder / f"{part.slug}.md", f"{_kind(part)}.md.j2", part=part)


def latex(part: Section | Listing, folder: Path) -> Path:
    """A table as LaTeX, for a document with booktabs."""
    return _write(folder / f"{part.slug}.tex", f"{_kind(part)}.tex.j2", part=part)


def escape_tex(text: Any) -> str:
    """Text for LaTeX."""
    return "".join(_TEX.get(c, c) for c in str(text))


def escape_md(text: Any) -> str:
    """Text for a cell of a Markdown table."""
    return re.sub(r"([\\`*_|<\[\]])", r"\\\1", " ".join(str(text).split()))


def _kind(part: Section | Listing) -> str:
    return "section" if isinstance(part, Section) else "listing"


def _write(path: Path, template: str, **values: Any) -> Path:
    text = _environment(template.split(".")[1]).get_template(template).render(**values)
    path.write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    return path


@cache
def _environment(language: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    delimiters: dict[str, Any] = {}
    if language == "tex":  # braces are LaTeX's own
        ends = {"variable": ("<<", ">>"), "block": ("<%", "%>"), "comment": ("<#", "#>")}
        for kind, (start, end) in ends.items():
            delimiters |= {f"{kind}_start_string": start, f"{kind}_end_string": end}
    environment = Environment(
        loader=PackageLoader("filtune.reports"),
        autoescape=language == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **delimiters,
    )
    environment.globals.update(words=words, Status=Status, Verdict=Verdict)
    environment.filters.update(tex=escape_tex, md=escape_md)
    return environment
