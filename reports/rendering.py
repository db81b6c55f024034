"""A report as pages of HTML, Markdown and LaTeX: the blocks of its parts, cells of tables by Jinja's macros."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtune.experiments.escaping import escape_markdown, plain
from filtune.lightning_modules.atomic import atomic_write

from . import formatting, section_tables
from .agreement import Agreement
from .cells import Status
from .document import Document
from .figures import FigurePlan
from .page import Block, Cards, Chips, CommandBlock, Fold, Heading, PagePart, TableBlock, Text
from .plots import INK
from .styled import LANGUAGES, html_table, latex_table, markdown_table

if TYPE_CHECKING:
    from jinja2 import Environment


def render_document(document: Document, output: Path, formats: Collection[str]) -> list[Path]:
    """Write a report: into a folder, with one page of HTML and each part as Markdown and LaTeX, or studies as one page.

    Args:
        document: The report.
        output: The folder, or of studies the path of the page.
        formats: Of ``html``, ``md`` and ``tex``.

    Returns:
        The paths.
    """
    whole = output.with_suffix("") if output.suffix in (".html", ".md", ".tex") else output
    groups, page = [(whole, document.parts)], whole.with_name(f"{whole.name}.html")
    if document.commands is None:
        groups, page = [(output / part.slug, [part]) for part in document.parts], output / "index.html"
    written = [render_html(document, page)] if "html" in formats else []
    for path, parts in groups:
        for end, render in (("md", render_markdown), ("tex", render_latex)):
            if end in formats:
                written.append(_write(path.with_name(f"{path.name}.{end}"), render(parts, document)))
    return written


def render_html(document: Document, path: Path) -> Path:
    """Write the page of HTML, in one file, and return its path."""
    page = _environment("html").get_template("index.html.j2").render(document=document, body=blocks_html)
    return _write(path, page)


def render_markdown(parts: Sequence[PagePart], document: Document) -> str:
    """Return parts as a page of Markdown, with what was left out of the report; studies with their summary."""
    left_out = "\n".join(f"* {escape_markdown(message)}" for message in document.left_out)
    if document.commands is None:
        end = ["Left out of the report:", left_out] if left_out else []
        return "\n\n".join([f"# {escape_markdown(parts[0].title)}", *blocks_markdown(parts[0].blocks, 1), *end])
    summary = "\n".join(part.summary for part in parts if part.summary)
    texts = [f"# {escape_markdown(document.title)}", *(["Targets:", summary] if summary else [])]
    for part in parts:
        texts += [f"## {escape_markdown(part.title)}", *blocks_markdown(part.blocks, 2)]
    texts += ["## Left out", left_out] if left_out else []
    return "\n\n".join([*texts, "## The commands", "\n".join(["```bash", *document.commands, "```"])])


def render_latex(parts: Sequence[PagePart], document: Document) -> str:
    """Return the tables that have a caption, for a document with booktabs; what was left out is a comment."""
    markup, macros, tables = LANGUAGES["tex"], _macros("tex"), []
    for part in parts:
        found = [table for table in part.tables() if table.caption]
        for number, table in enumerate(found, 1):
            label = f"{part.slug}-{number}" if len(found) > 1 else part.slug
            tables.append(latex_table(table.frame(markup, macros), table.caption, label))
    comments = [f"% left out: {plain(message)}" for message in document.left_out]
    return "\n".join(["% needs booktabs", "\n\n".join(tables), *comments])


def _write(path: Path, text: str) -> Path:
    with atomic_write(path, "wb") as file:
        file.write((text.strip() + "\n").encode("utf-8", "replace"))
    return path


def blocks_markdown(blocks: Sequence[Block], depth: int) -> list[str]:
    """Return blocks as Markdown; headings are below one of the depth."""
    markup, macros, found = LANGUAGES["md"], _macros("md"), []
    for block in blocks:
        match block:
            case Text(text, _, only) if only != "html":
                found.append(text)
            case Heading(text, levels):
                found.append(f"{'#' * (depth + levels)} {text}")
            case TableBlock():
                found.append(markdown_table(block.frame(markup, macros)))
            case Chips(text, chips):
                found.append(f"{text} {', '.join(words for _, words in chips)}.")
            case CommandBlock(text):
                found.append(f"    {plain(text)}")
            case FigurePlan() if block.inline:
                found.append(f"![{escape_markdown(block.title)}]({block.name}{block.ends[-1]})")
            case Fold(summary, inner, columns):
                within = blocks_markdown([*inner, *(each for column in columns for each in column)], depth + 1)
                found += [f'<details markdown="1">\n{_summary(summary)}', *within, "</details>"]
    return [text for text in found if text]


def blocks_html(blocks: Sequence[Block], slug: str, depth: int = 2) -> str:
    """Return blocks as HTML; headings are below one of the depth, names of tables begin with the part's."""
    markup, macros, found = LANGUAGES["html"], _macros("html"), []
    for block in blocks:
        match block:
            case Text(text, style, only) if only != "md":
                found.append(_prose(text, style))
            case Heading(text, levels):
                found.append(f"<h{depth + levels}>{_parser().renderInline(text)}</h{depth + levels}>")
            case TableBlock(frame):
                name = f"{slug}-{len(found)}"
                found.append(f'<div class="scroll" tabindex="0">{html_table(frame(markup, macros), name)}</div>')
            case Chips(text, chips):
                words = " ".join(f'<span class="chip {slug}">{markup.escape(words)}</span>' for slug, words in chips)
                found.append(f'<p class="muted">{text} {words}</p>')
            case CommandBlock(text):
                found.append(f'<code class="command" tabindex="0">{markup.escape(text)}</code>')
            case FigurePlan() if block.inline:
                found.append(macros.figure(block))
            case Cards(name, arguments):
                found += [getattr(macros, name)(*each) for each in arguments]
            case Fold(summary, inner, columns):
                slugs = (f"{slug}-{len(found)}-{number}" for number in count(1))
                beside = "".join(f"<div>{blocks_html(column, next(slugs), depth)}</div>" for column in columns)
                beside = f'<div class="side-by-side">{beside}</div>' if beside else ""
                found.append(f"<details>{_summary(summary)}{blocks_html(inner, next(slugs), depth)}{beside}</details>")
    return "\n".join(found)


def _summary(text: str) -> str:
    """Return a summary as HTML that is no markup within Markdown either."""
    escaped = escape(plain(text), quote=False)
    return f"<summary>{re.sub(r'[][*_`|]', lambda sign: f'&#{ord(sign[0])};', escaped)}</summary>"


def _prose(markdown: str, style: str) -> str:
    """Return Markdown as HTML, its first paragraph or list with a class."""
    text = _parser().render(markdown)
    return re.sub("^<(p|ul)>", rf'<\1 class="{style}">', text) if style else text


@cache
def _parser() -> Any:
    """Return the parser of Markdown, which lets no HTML and no picture from elsewhere through."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def _macros(language: str) -> Any:
    """Return the macros of a language, whose texts are in one line."""
    return _environment(language).get_template(f"macros.{language}.j2").module


@cache
def _environment(language: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    markup = LANGUAGES[language]
    environment = Environment(
        loader=PackageLoader("filtune.reports"),
        autoescape=language == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        formatting=formatting, tables=section_tables, table=html_table, markup=markup, Status=Status,
        Agreement=Agreement, INK=INK,
    )  # fmt: skip
    environment.filters.update(esc=markup.escape, strong=markup.strong, plain=plain)
    return environment
