"""Every public optimizer has a source, its errors and an example in its docstring, and the example runs."""

from __future__ import annotations

import doctest
import inspect
import re

import pytest
from filtune.optimizers.kalman.covariance import Covariance
from filtune.optimizers.kalman.noise import ObservationNoise

from filtune import datamodules, optimizers
from tests.docs.pages import ROOT

RULES = {
    name: cls
    for name in optimizers.__all__
    if inspect.isclass(cls := getattr(optimizers, name))
    and issubclass(cls, optimizers.OnlineOptimizer)
    and not vars(cls).get("abstract", False)
}


@pytest.mark.parametrize("name", RULES)
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It starts from nothing, as a reader who copies it would."""
    (test,) = doctest.DocTestFinder(recurse=False).find(RULES[name], name, globs={})
    assert len(test.examples) >= 5
    assert f"import {name}" in test.docstring or re.search(rf"from filtune import .*\b{name}\b", test.docstring)
    assert set(re.findall(r"^\s*>>> (?:from|import) (\w+)", test.docstring, flags=re.MULTILINE)) == {"torch", "filtune"}
    result = doctest.DocTestRunner().run(test)
    assert not result.failed, capsys.readouterr().out


@pytest.mark.parametrize("name", RULES)
def test_a_docstring_names_its_source_and_its_errors(name: str) -> None:
    text = inspect.getdoc(RULES[name]) or ""
    source = re.search(r"^Source: (.*?)\n\n", text, flags=re.MULTILINE | re.DOTALL)
    assert source, "no paragraph 'Source: ...'"
    assert "https://" in source[1] or name == "TorchOptimizer"
    assert ".. math::" in text or name == "TorchOptimizer"
    assert re.search(r"^Raises:\n +ValueError: ", text, flags=re.MULTILINE)


def test_rules_are_those_that_have_pages() -> None:
    """No class escapes these tests."""
    pages = {path.stem.replace("_", "") for path in (ROOT / "docs" / "optimizers").glob("*.md")} - {"index"}
    assert {name.lower() for name in RULES} == pages


def test_every_public_part_is_in_the_reference() -> None:
    """Optimizers, likelihoods, data modules, covariances and observation noises."""
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    registered = [part for family in (Covariance, ObservationNoise) for part in family.registry.values()]
    registered = [part for part in registered if part.__module__.startswith("filtune.")]
    public = [found for name in optimizers.__all__ if inspect.isclass(found := getattr(optimizers, name))]
    streams = [getattr(datamodules, name) for name in datamodules.__all__ if name.endswith("DataModule")]
    missing = {cls.__name__ for cls in [*registered, *public, *streams] if f".{cls.__name__}\n" not in pages}
    assert not missing
