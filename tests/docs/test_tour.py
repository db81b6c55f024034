"""The tour runs from beginning to end, and finds what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.harness import run
from tests.docs.pages import TOUR


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What it printed, and where it ran."""
    folder = tmp_path_factory.mktemp("tour")
    code, text = run([str(TOUR)], folder)
    assert code == 0, text
    return text, folder


def test_it_leaves_its_figure_alone(tour: tuple[str, Path]) -> None:
    assert [path.name for path in tour[1].iterdir()] == ["tour.png"]


def test_both_optimizers_learn(tour: tuple[str, Path]) -> None:
    """Of the last hundred digits both predict most; ten would be chance."""
    found = re.findall(r"predicted before being learnt, (\d+) of the last 100", tour[0])
    assert len(found) == 2
    assert all(int(hits) > 60 for hits in found)


def test_the_variances_fall(tour: tuple[str, Path]) -> None:
    found = re.findall(r"mean variance (\S+) after the first digit, (\S+) after", tour[0])
    assert len(found) == 10
    assert all(float(after) < float(before) for before, after in found)


def test_the_filter_saturates_and_softmax_noise_does_not(tour: tuple[str, Path]) -> None:
    assert "ema-2: the filter is saturated" in tour[0]
    assert "ema-2: did not turn" in tour[0]
    assert re.search(r"softmax: turned after \d+ contradictions", tour[0])


def test_shuffled_pixels_are_told_from_digits(tour: tuple[str, Path]) -> None:
    (_, most), (least, _) = re.findall(r"winning score (\S+) to (\S+)", tour[0])
    assert float(most) < float(least)
