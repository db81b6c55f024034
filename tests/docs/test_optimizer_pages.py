"""Every optimizer has a page that names its configurations and every argument with its value."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from filtune import optimizers
from tests.docs.pages import DOCS, ROOT, name

CONFIGS = sorted((ROOT / "configs" / "optimizer").glob("*.yaml"))
PAGES = sorted(page for page in (DOCS / "optimizers").glob("*.md") if page.stem != "index")
Table = dict[str, dict[str, str]]


def written(config: Path) -> dict[str, Any]:
    """A configuration as it is."""
    return yaml.safe_load(config.read_text())


def class_of(config: Path) -> str:
    """The name of its optimizer."""
    return written(config)["optimizer"]["class_path"].rpartition(".")[2]


def arguments(page: Path) -> Table:
    """The table of arguments: of each configuration, the value in every row."""
    section = page.read_text().partition("## Arguments")[2].partition("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:1] == "|"]
    header, body = rows[0], rows[2:]
    return {column: {row[0]: row[i] for row in body} for i, column in enumerate(header) if 0 < i < len(header) - 1}


def value(text: str) -> Any:
    """What a cell says; YAML takes 1e-4 for text, as it has no point."""
    return yaml.safe_load(re.sub(r"(?<![\w.])(\d+)e-", r"\1.0e-", text))


def page_of(config: Path) -> Path:
    """The page whose table names a configuration."""
    (page,) = [page for page in PAGES if config.stem in arguments(page)]
    return page


def defaults(kind: str) -> dict[str, Any]:
    """The arguments of an optimizer's constructor, as YAML has them."""
    parameters = dict(inspect.signature(getattr(optimizers, kind)).parameters)
    del parameters["params"]
    found = {key: parameter.default for key, parameter in parameters.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_configuration_is_on_its_page_with_every_argument(config: Path) -> None:
    """The table has the defaults with what the configuration says besides."""
    table, whole = arguments(page_of(config))[config.stem], written(config)
    given = whole["optimizer"].get("init_args", {})
    schedule = {f"schedule.{key}": found for key, found in whole.get("model", {}).get("schedule", {}).items()}
    shown = {key: value(text) for key, text in table.items()}
    assert {key: found for key, found in shown.items() if not key.startswith("schedule.")} == {
        **defaults(class_of(config)),
        **given,
    }
    if any(found not in ("none", 0) for found in schedule.values()):
        assert schedule.items() <= shown.items()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_has_every_argument_of_its_constructor(page: Path) -> None:
    (kind,) = {class_of(config) for config in CONFIGS if config.stem in arguments(page)}
    (stem,) = re.findall(r"constructor's defaults are those of `([\w-]+)`", page.read_text())
    shown = {key: value(text) for key, text in arguments(page)[stem].items() if not key.startswith("schedule.")}
    assert shown == defaults(kind)


def test_every_optimizer_has_a_page() -> None:
    public = {x for x in optimizers.__all__ if inspect.isclass(getattr(optimizers, x))}
    rules = {x for x in public if issubclass(getattr(optimizers, x), optimizers.OnlineOptimizer)}
    assert rules - {"OnlineOptimizer", "FirstOrder"} == {class_of(config) for config in CONFIGS}
    assert {page_of(config) for config in CONFIGS} == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_page_says_the_same_things(page: Path) -> None:
    sections = re.findall(r"^## (.*)$", page.read_text(), flags=re.MULTILINE)
    assert {"As implemented", "Arguments", "When to take it", "When not"} <= set(sections)


FIGURE = re.compile(r"\d+\.\d+ ± \d+\.\d+")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_measured_figures_are_those_of_the_results(page: Path) -> None:
    results = (DOCS / "results.md").read_text()
    for figure in FIGURE.findall(page.read_text()):
        assert figure in results, figure
