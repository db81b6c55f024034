"""Every link within the documentation leads to a file, and every anchor to a heading; nothing is fetched."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, SITE_PAGES, markdown, name, prose

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def headings(page: Path) -> list[str]:
    """The headings of a page as they are read."""
    found = re.findall(r"^#{1,6} (.+)$", prose(page), flags=re.MULTILINE)
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in found]


def on_a_code_host(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def on_the_site(heading: str) -> str:
    """The anchor that Python-Markdown gives a heading."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors(page: Path) -> set[str]:
    """The anchors that lead to one heading of a page, on a code host and on the site alike."""
    found = [{on_a_code_host(heading), on_the_site(heading)} for heading in headings(page)]
    counts = Counter(anchor for pair in found for anchor in pair)
    return {anchor for pair in found if len(pair) == 1 for anchor in pair if counts[anchor] == 1}


def links(page: Path) -> list[str]:
    """Targets of a page's links and images, but those that leave the repository."""
    return [target for target in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), target
        if anchor:
            assert anchor in anchors(aim), target


def test_links_from_the_site_stay_on_it() -> None:
    for page in SITE_PAGES:
        for target in links(page):
            assert (page.parent / target.partition("#")[0]).resolve().is_relative_to(DOCS), (name(page), target)


def test_every_page_is_found_from_the_readme() -> None:
    seen, ahead = set(), [ROOT / "README.md", DOCS / "index.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix not in (".md", ".py"):
            continue
        seen.add(page)
        ahead += [(page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"]
    assert {name(page) for page in PAGES} <= {name(page) for page in seen}


def test_anchors_are_made_as_code_hosts_and_sites_make_them() -> None:
    heading = "R-Kalman's sigma0 and beta (GRNG, Figures 7 and 8): SST-2, MiniLM, 1,000 samples"
    expected = "r-kalmans-sigma0-and-beta-grng-figures-7-and-8-sst-2-minilm-1000-samples"
    assert on_a_code_host(heading) == on_the_site(heading) == expected


def test_there_are_links_to_check() -> None:
    assert sum(len(links(page)) for page in PAGES) > 60
    assert all(markdown(page).startswith("# ") for page in PAGES)
