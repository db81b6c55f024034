"""Docstrings as Markdown: equations and references to names are written in reStructuredText in the source."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Extension that rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite that of an object, where it has one."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """Turn ``.. math::`` blocks into fences, roles such as ``:class:`` into code, and keep stars.

    Args:
        text: A docstring without its indentation.
    """
    text = re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", lambda found: f"`{found[1] or found[2]}`", text)
    text = re.sub(r"(?<=\w)\*(?=\w)", r"\\*", text)
    return re.sub(r"^\.\. math::\n((?:(?:    .*)?\n)+)", _fence, text + "\n", flags=re.MULTILINE).rstrip()


def _fence(block: re.Match[str]) -> str:
    lines = dedent(block[1]).strip()
    if "&" in lines:
        lines = f"\\begin{{aligned}}\n{lines}\n\\end{{aligned}}"
    return f"```math\n{lines}\n```\n\n"
