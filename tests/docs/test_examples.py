"""Every public optimizer has a source, its errors and an example in its docstring, and the example runs."""

from __future__ import annotations

import doctest
import inspect
import re

import pytest

from filtune import optimizers
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
