"""The pages of the documentation, and their text."""

from __future__ import annotations

import re
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
