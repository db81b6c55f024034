"""Names and texts that a stranger may have written, escaped for the program that will show them."""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, which a terminal obeys, those that reverse the direction of writing, and lone surrogates."""

_MARKDOWN = re.compile(r"([\\`*_|<\[\]])")
_HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)")
"""Beginnings of tags and entities."""


def plain(text: Any) -> str:
    """Return text in one line for a terminal or a log, its control characters replaced."""
    return _CONTROL.sub("\ufffd", " ".join(str(text).split()))


def escape_markdown(text: Any) -> str:
    """Return text in one line for Markdown, in which it is no markup, no HTML and no end of a table's cell."""
    escaped = _HTML.sub(lambda found: "&lt;" if found[0] == "<" else "&amp;", plain(text))
    return _MARKDOWN.sub(r"\\\1", escaped)


def markdown_code(text: Any) -> str:
    """Return text as code within a line of Markdown, whatever it contains."""
    content = plain(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", content)), default=0))
    space = " " if "`" in content else ""
    return f"{fence}{space}{content}{space}{fence}"
