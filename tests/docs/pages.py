"""The pages of the documentation, and their text and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TOUR = DOCS / "tour" / "tour.py"
SITE_PAGES = [*sorted(DOCS.rglob("*.md")), TOUR]
"""Pages of the documentation site."""

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE_PAGES]


def name(page: Path) -> str:
    """Return the name of a page in a test."""
    return str(page.relative_to(ROOT))


def markdown(page: Path) -> str:
    """Return the text of a page; of the tour, that of its Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page != TOUR:
        return text
    cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)+)", text, flags=re.MULTILINE)
    return "\n".join(re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells)


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", markdown(page), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Return the ``filtune`` commands of a page, without abbreviated ones and those without arguments."""
    text = markdown(page).replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
    command = r"(?:filtune|torchrun .*?-m cli) ([a-z][^`\n|&]*)"
    found = re.findall(f"(?:^|&& ){command}", blocks, flags=re.MULTILINE) + re.findall(f"`{command}", prose(page))
    lines = [shlex.split(line, comments=True) for line in found if "..." not in line]
    return [line for line in lines if len(line) > 1]
