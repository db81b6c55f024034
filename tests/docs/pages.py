"""The pages of the documentation as a reader has them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TOUR = DOCS / "tour" / "tour.py"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), TOUR]


def name(page: Path) -> str:
    """What a test calls a page."""
    return str(page.relative_to(ROOT))


def markdown(page: Path) -> str:
    """A page's text; of the tour, that of its cells of text."""
    text = page.read_text(encoding="utf-8")
    if page != TOUR:
        return text
    cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)+)", text, flags=re.MULTILINE)
    return "\n".join(re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells)


def prose(page: Path) -> str:
    """A page's text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", markdown(page), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Every ``filtune`` command on a page, or ``-m cli`` in its place, but those cut short or only named."""
    text = markdown(page).replace("\\\n", " ")
    found = re.findall(r"(?:^|&& |`)(?:filtune|torchrun .*?-m cli) ([a-z][^`\n|&]*)", text, flags=re.MULTILINE)
    lines = [shlex.split(line, comments=True) for line in found if "..." not in line]
    return [line for line in lines if len(line) > 1]
