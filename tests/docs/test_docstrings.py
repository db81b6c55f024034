"""The first line of every docstring is a sentence that says what a function returns or a class is."""

from __future__ import annotations

import pytest

from tests.docs import docstrings


@pytest.mark.parametrize("folder", docstrings.FOLDERS)
def test_first_lines_are_sentences(folder: str) -> None:
    found = docstrings.main([folder])
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('def f(): """N."""', "begins with a fragment"),
        ('def f(): """Return n."""', "begins with a fragment"),
        ('def f(): """Compare: both are read."""', "begins with a fragment"),
        ('def f(): """Return the mean of a batch"""', "does not end with a full stop"),
        ('def f(): """Whether a run is finished."""', "opens with 'Whether'"),
        ('def f(): """The mean of a batch."""', "does not open with a verb"),
        ('def f(): """Returns the mean of a batch."""', "does not open with a verb"),
        ('async def f(): """Mean of a batch."""', "does not open with a verb"),
        ('class C: """How a batch is scored."""', "opens with 'How'"),
        ('class C: """Scores."""', "begins with a fragment"),
        ('class C: """Writes the summary of a run."""', "opens with a verb, and a noun says what it is"),
        ('class C:\n  @property\n  def f(self): """Whether it is so."""', "opens with 'Whether'"),
        ('"""What a run says about its task."""', "opens with 'What'"),
        ('"""It. Both of them are the same."""', "begins with a fragment"),
    ],
)
def test_other_first_lines_are_found(source: str, fault: str) -> None:
    (hit,) = docstrings.hits("module.py", source)
    assert hit.fault == fault


@pytest.mark.parametrize(
    "source",
    [
        'def f(): """Return the mean, LoKO eq. 7, of a batch."""',
        'def f(): """Compare the data with that of the first run, and\n  refuse another."""',
        'def f(): """Turn ``.. math::`` blocks into fences (see above)."""',
        'class C: """Samples of a batch: inputs and targets."""',
        'class C: """Drift detection: Page\'s test."""',
        'class C:\n  @cached_property\n  def f(self): """The path of the file."""',
        '"""Likelihoods: the distribution of a target."""',
        "def f(): ...",
    ],
)
def test_sentences_are_left_alone(source: str) -> None:
    assert not list(docstrings.hits("module.py", source))
