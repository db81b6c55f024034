"""The tour runs from beginning to end, and finds what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.harness import run
from tests.docs.pages import TOUR


def test_a_short_one_runs(tmp_path: Path) -> None:
    """Every cell of it, with a shorter stream and fewer repetitions; what it finds then is another matter."""
    text = TOUR.read_text(encoding="utf-8")
    for long, short in (("max_samples=400", "max_samples=110"), ("repetitions=500, most=100", "repetitions=5, most=5"),
                        ("--data.max_samples 200", "--data.max_samples 8")):  # fmt: skip
        assert text.count(long) == 1
        text = text.replace(long, short)
    (tmp_path / "tour").mkdir()
    (tmp_path / "tour.py").write_text(text)
    code, text = run([str(tmp_path / "tour.py")], tmp_path / "tour")
    assert code == 0, text
    assert [path.name for path in (tmp_path / "tour").iterdir()] == ["tour.png"]


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What it printed, and where it ran."""
    folder = tmp_path_factory.mktemp("tour")
    code, text = run([str(TOUR)], folder)
    assert code == 0, text
    return text, folder


@pytest.mark.slow
def test_it_leaves_its_figure_alone(tour: tuple[str, Path]) -> None:
    assert [path.name for path in tour[1].iterdir()] == ["tour.png"]


@pytest.mark.slow
def test_both_optimizers_learn(tour: tuple[str, Path]) -> None:
    """Of the last hundred digits both predict most; ten would be chance."""
    found = re.findall(r"predicted before being learnt, (\d+) of the last 100", tour[0])
    assert len(found) == 2
    assert all(int(hits) > 60 for hits in found)


@pytest.mark.slow
def test_the_variances_fall(tour: tuple[str, Path]) -> None:
    found = re.findall(r"mean variance (\S+) after the first digit, (\S+) after", tour[0])
    assert len(found) == 10
    assert all(float(after) < float(before) for before, after in found)


@pytest.mark.slow
def test_the_filter_saturates_and_softmax_noise_does_not(tour: tuple[str, Path]) -> None:
    assert "ema-2: the filter is saturated" in tour[0]
    assert "ema-2: did not turn" in tour[0]
    assert re.search(r"softmax: turned after \d+ contradictions", tour[0])


@pytest.mark.slow
def test_shuffled_pixels_are_told_from_digits(tour: tuple[str, Path]) -> None:
    (_, most), (least, _) = re.findall(r"winning score (\S+) to (\S+)", tour[0])
    assert float(most) < float(least)
