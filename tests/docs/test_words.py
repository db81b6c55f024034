"""The check of expressions that are out finds them, and finds none in the project."""

from __future__ import annotations

import pytest

from tests.docs import words


@pytest.mark.slow  # `make check` and `.ci/run` run it too
def test_the_project_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert not words.main(), capsys.readouterr().out


def test_it_finds_them() -> None:
    assert words.found("optimizers/base.py", "The filter wants a prior.") == [
        "optimizers/base.py:1: 'wants'; write: needs"
    ]
    assert words.found("README.md", "`--wants` is an option") == []  # code is no prose
    assert words.found("lightning_modules/legacy.py", "rivals") == []
    assert words.found("docs/index.md", "by what")
    assert not words.found("optimizers/base.py", "by what")
