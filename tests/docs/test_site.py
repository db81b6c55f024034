"""The documentation site builds without a warning, and asks the network for nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, SITE_PAGES, TOUR

NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (pip install -e '.[docs]')")

LOADED = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*stylesheet[^>]*//|url\(["']?http"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in SITE_PAGES:
        target = page.relative_to(DOCS).with_suffix(".html")
        target = target.with_name("index.html") if page.name == "README.md" else target  # as MkDocs names it
        assert (site / target).exists(), page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not LOADED.search(page.read_text(encoding="utf-8")), page


def test_equations_are_set(site: Path) -> None:
    for page in ("optimizers/loko.html", "api/optimizers.html"):
        text = (site / page).read_text(encoding="utf-8")
        assert "<math" in text
        assert not re.search(r"\.\. math::|\\begin\{aligned\}|```math|:class:", text)


def test_the_reference_has_the_arguments(site: Path) -> None:
    text = (site / "api/optimizers.html").read_text(encoding="utf-8")
    for name in ("LoKO", "RKalman", "EKF", "NGD", "RING", "RENG", "SAM", "Sophia", "AdamW", "AdaGrad", "SGD"):
        assert re.search(rf'id="[\w.]+\.{name}"', text), name
    assert "Initial variance of the state, or its upper bound" in text


def test_links_lead_to_pages_and_not_to_their_source(site: Path) -> None:
    assert (site / "tour" / "tour.html").exists()
    for page in site.rglob("*.html"):
        assert f'href="{TOUR.name}"' not in page.read_text(encoding="utf-8"), page
