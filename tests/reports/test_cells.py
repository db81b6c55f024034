"""What becomes of a cell: reproduced, exceeded, not, diverged, scaled down, tuned; and the remarks on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from filtune.reports.cells import Status
from filtune.reports.document import assemble
from filtune.reports.sections import Section

from tests.reports.factory import manifest, own_table, record, runs


def section(root: Path) -> Section:
    return assemble([root], []).sections[0]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([79.0, 80.0, 81.5], Status.REPRODUCED),
        ([85.0, 86.0, 87.0], Status.EXCEEDS),
        ([75.0, 74.0, 73.0], Status.NOT_REPRODUCED),
        ([80.0], Status.UNTESTED),
    ],
)
def test_a_run_as_published(own: Path, values: list[float], status: Status) -> None:
    manifest(own, "own.table", {"loko/a": runs("loko/a", values)})
    cell = section(own).cells["loko", "a/online_accuracy"]
    assert cell.status is status
    assert (cell.test is None) == (len(values) == 1)
    if len(values) == 1:
        assert "one seed" in cell.reason


@pytest.mark.parametrize(
    ("values", "status"), [([70.0, 71.0, 69.0], Status.EXCEEDS), ([90.0, 91.0, 89.0], Status.NOT_REPRODUCED)]
)
def test_of_a_loss_less_is_better(own: Path, values: list[float], status: Status) -> None:
    own_table(own.parent, higher_is_better=False)
    manifest(own, "own.table", {"loko/a": runs("loko/a", values)})
    assert section(own).cells["loko", "a/online_accuracy"].status is status


def test_without_a_published_deviation_there_is_no_test(own: Path) -> None:
    columns = [{"name": "a", "title": "A", "task": "sst2", "backbone": "net"}]
    own_table(
        own.parent, columns=columns, rows=[{"name": "loko", "title": "L", "optimizer": "loko", "published": [80.0]}]
    )
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0, 81.0, 82.0])})
    cell = section(own).cells["loko", "a/online_accuracy"]
    assert cell.status is Status.UNTESTED
    assert "no deviation" in cell.reason
    assert cell.difference == pytest.approx(1.0)


def test_a_scaled_down_run_is_never_reproduced(own: Path) -> None:
    scale = {"max_samples": 2000, "backbone": "minilm"}
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0, 80.5, 79.5])}, scale=scale)
    found = section(own)
    cell = found.cells["loko", "a/online_accuracy"]
    assert cell.status is Status.SCALED
    assert cell.test is None
    assert cell.difference == pytest.approx(0.0)
    assert found.scale_words == "MiniLM for RoBERTa-base, 2,000 samples"
    assert [leaf.title for leaf in found.columns()] == ["A, MiniLM for net"]
    assert found.command("loko/a") == (
        f"filtune reproduce own.table --cells loko/a --max-samples 2000 --backbone minilm --root {own}"
    )


def test_one_diverged_seed_makes_a_diverged_cell(own: Path) -> None:
    made = runs("loko/a", [80.0, 81.0])
    made[2] = record("d" * 16, 2, {}, status="diverged", reason="step 8: the loss is not finite")
    manifest(own, "own.table", {"loko/a": made})
    cell = section(own).cells["loko", "a/online_accuracy"]
    assert cell.status is Status.DIVERGED
    assert cell.reason == "1 of 3 seeds diverged: step 8: the loss is not finite"
    assert cell.ours
    assert cell.ours.mean == pytest.approx(80.5)


def test_what_was_not_run_says_why(own: Path) -> None:
    manifest(own, "own.table", {"loko/a": {}, "adamw/a": {}}, missing={"loko/a": "weights x: gated"})
    (own / "records").mkdir(exist_ok=True)
    cells = section(own).cells
    assert {cell.status for cell in cells.values()} == {Status.ABSENT}
    assert cells["loko", "a/online_accuracy"].reason == "could not be run: weights x: gated"
    assert cells["adamw", "a/online_accuracy"].reason == "asked for, and not finished yet"
    assert cells["loko", "b/online_accuracy"].reason == ""


def test_a_grid_shows_its_best_point_of_the_most_seeds(own: Path) -> None:
    made = {
        "tuned/a/lr=0.1": runs("tuned/a/lr=0.1", [70.0, 72.0, 71.0]),
        "tuned/a/lr=0.2": runs("tuned/a/lr=0.2", [75.0, 74.0, 76.0]),
        "tuned/a/lr=0.3": runs("tuned/a/lr=0.3", [99.0]),
    }
    manifest(own, "own.table", made)
    found = section(own)
    cell = found.cells["tuned", "a/online_accuracy"]
    assert (cell.point.setting, len(cell.points), cell.status) == ("lr=0.2", 3, Status.OURS)
    assert found.kinds == {"loko": "paper", "adamw": "paper", "tuned": "tuned"}
    assert any("favours the baseline" in note for note in found.notes())


def test_p_is_adjusted_over_the_cells_of_the_table(own: Path) -> None:
    made = {
        name: runs(name, values)
        for name, values in {"loko/a": [82.0, 83.0, 84.0], "loko/b": [70.0, 70.5, 69.5]}.items()
    }
    manifest(own, "own.table", made)
    a, b = (section(own).cells["loko", f"{column}/online_accuracy"] for column in "ab")
    assert a.test
    assert b.test
    assert a.test.p < b.test.p
    assert a.test.adjusted == pytest.approx(2 * a.test.p)
    assert b.test.adjusted == pytest.approx(max(b.test.p, 2 * a.test.p))


def test_best_of_a_column_in_bold_ours_and_published_apart(own: Path) -> None:
    manifest(own, "own.table", {"loko/a": runs("loko/a", [70.0, 71.0]), "adamw/a": runs("adamw/a", [80.0, 81.0])})
    found = section(own)
    leaf = found.leaves[0]
    assert found.best(leaf, published=False) == {"adamw"}
    assert found.best(leaf, published=True) == {"loko"}


def test_times_compare_as_ratios_to_adamw(own: Path) -> None:
    own_table(own.parent)
    (own.parent / "papers" / "own" / "times.yaml").write_text(
        "{title: Times, kind: table, of: own.table, rows: [loko, adamw, tuned], metric: steps_to_convergence, "
        "metrics: [steps_to_convergence, seconds_per_step], higher_is_better: false, "
        "published: {loko: [[10, 0.4], [20, 0.4]], adamw: [[20, 0.1], [20, 0.1]]}}"
    )
    slow = {"wall_seconds": 9.0, "seconds_per_step": 0.05, "mean_seconds_per_step": 0.05, "finished_at": None}
    made = {"loko/a": runs("loko/a", [70.0, 71.0], times=slow), "adamw/a": runs("adamw/a", [70.0, 71.0])}
    made["tuned/a/lr=0.1"] = runs("tuned/a/lr=0.1", [60.0, 61.0])
    made["tuned/a/lr=0.2"] = runs("tuned/a/lr=0.2", [65.0, 66.0])
    manifest(own, "own.table", made)
    times = next(s for s in assemble([own], []).sections if s.table.name == "own.times")
    cell = times.cells["loko", "a/seconds_per_step"]
    assert cell.ratio == (pytest.approx(2.0), pytest.approx(4.0))
    assert cell.status is Status.UNTESTED
    assert times.cells["loko", "a/steps_to_convergence"].ratio[1] == pytest.approx(0.5)
    # the tuned row is timed at the setting that its accuracy chose
    assert times.cells["tuned", "a/seconds_per_step"].point.setting == "lr=0.2"
