"""The notebook of the tour runs from beginning to end with the results that it describes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from tests.cli.harness import run
from tests.docs.pages import DOCS, TOUR


def test_a_short_one_runs(tmp_path: Path) -> None:
    """Every cell of it, with a shorter stream and fewer repetitions; what it finds then is another matter."""
    text = TOUR.read_text(encoding="utf-8")
    for long, short in (("max_samples=400", "max_samples=110"), ("repetitions=500, most=100", "repetitions=5, most=5"),
                        ("--data.max_samples 100", "--data.max_samples 8")):  # fmt: skip
        assert text.count(long) == 1
        text = text.replace(long, short)
    (tmp_path / "tour").mkdir()
    (tmp_path / "tour.py").write_text(text)
    code, text = run([str(tmp_path / "tour.py")], tmp_path / "tour")
    assert code == 0, text
    assert [path.name for path in (tmp_path / "tour").iterdir()] == ["tour.png"]


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run the code of the notebook; return its output and its folder."""
    cells = json.loads(TOUR.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    script = tmp_path_factory.mktemp("notebook") / "tour.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    folder = tmp_path_factory.mktemp("tour")
    code, text = run([str(script)], folder)
    assert code == 0, text
    return text, folder


@pytest.mark.slow
def test_it_leaves_its_figure_alone(tour: tuple[str, Path]) -> None:
    assert [path.name for path in tour[1].iterdir()] == ["tour.png"]


@pytest.mark.slow
def test_both_optimizers_learn(tour: tuple[str, Path]) -> None:
    """Both predict most of the last hundred digits; ten would be chance."""
    found = re.findall(r"predicted before learning, (\d+) of the last 100", tour[0])
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
    assert "ema-2: unchanged after 100 contradictions" in tour[0]
    assert re.search(r"softmax: changed after \d+ contradictions", tour[0])


@pytest.mark.slow
def test_shuffled_pixels_are_distinguished_from_digits(tour: tuple[str, Path]) -> None:
    (_, most), (least, _) = re.findall(r"winning score (\S+) to (\S+)", tour[0])
    assert float(most) < float(least)


def test_the_notebook_is_the_tour() -> None:
    """It is written by ``python docs/site/notebook.py``, and imports from ``filtune`` alone."""
    specification = importlib.util.spec_from_file_location("notebook", DOCS / "site" / "notebook.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    script = TOUR.read_text(encoding="utf-8")
    assert TOUR.with_suffix(".ipynb").read_text(encoding="utf-8") == module.notebook_of(script)
    assert set(re.findall(r"^from (filtune\S*)", script, flags=re.MULTILINE)) == {"filtune"}
