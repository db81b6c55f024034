"""A method against tuned baselines: which point is the baseline, what is paired, how fast, and the page."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from filtune.experiments.archive import Archive
from filtune.experiments.tables import load_table
from filtune.reports import report
from filtune.reports.figures import Line, plan_curves
from filtune.reports.plots import looks
from filtune.reports.seed_runs import SeedRuns, best_runs
from filtune.reports.statistics import paired, seed_differences, with_holm
from filtune.reports.study import (
    RecoveryRule,
    compare_streams,
    convergence_shares,
    recovery_rules,
    recovery_times,
    samples_to,
)
from filtune.reports.study_figure import spread
from filtune.reports.study_page import study_part
from filtune.reports.study_tables import stars
from hypothesis import given
from hypothesis import strategies as st

from filtune.cli import contest
from tests.reports.factory import manifest, runs
from tests.reports.studies import STUDY, VALUES, compared_on, page


def test_a_baseline_is_its_best_point_and_the_differences_are_paired(study: Path) -> None:
    table = load_table(str(study))
    first, second = compare_streams(table, Archive([study.parent], [table]))
    assert first.baselines["AdamW"].name == "adamw/a/lr=0.001"
    own = first.method.values(first.metric)
    assert seed_differences(own, first.baselines["AdamW"].values(first.metric)) == [2, 1, 6]
    assert seed_differences(own, first.baselines["AdaGrad"].values(first.metric)) == [-1, -1, 2]
    assert (first.reserved, second.reserved) == (False, True)
    assert set(second.baselines) == {"AdamW"}


def test_on_other_seeds_another_point_may_be_best(study: Path) -> None:
    table = load_table(str(study))
    only, empty = compare_streams(table, Archive([study.parent], [table]), [2])
    assert not empty.method.finished
    assert not empty.baselines
    assert only.baselines["AdamW"].name == "adamw/a/lr=0.01"
    assert only.baselines["AdamW"].values(only.metric) == {2: 90.0}


def test_samples_to_a_target_for_good() -> None:
    curve = (np.array([50.0, 100, 150, 200]), np.array([60.0, 40, 50, 55]))
    assert samples_to(curve, 50, for_good=True) == 150
    assert samples_to(curve, 30, for_good=True) == 50
    assert math.isinf(samples_to(curve, 56, for_good=True))
    assert samples_to(curve, 50, for_good=False) == 50
    assert samples_to(curve, 61, for_good=False) == math.inf


def test_a_comparison_on_validation_takes_the_first_time_a_level_is_reached(study: Path) -> None:
    """The factory's validation is 5 and 2 below its end after a quarter and a half."""
    values = {"ours/a": [92.0, 92.0], "adamw/a/lr=0.001": [90.0, 91.0], "adamw/a/lr=0.01": [80.0, 80.0]}
    raw, stream = compared_on(study, "val_accuracy", values)
    assert convergence_shares(stream.method, stream.baselines["AdamW"], stream.metric) == [1000 / 2000, 1.0]
    text = page(study, raw)
    assert "the validation score first reaches the baseline's final score" in text
    assert "Prequential" not in text  # with validation scores samples may be repeated
    assert "Validation accuracy (%): mean ± standard deviation" in text
    assert "### Validation after training" not in text  # the tables of the answer have it
    whole = text.partition("<summary>Mean over the run</summary>")[2]
    assert "| Ours | **89.7 ±\xa00.0** |\n| AdamW | 88.2 ±\xa00.7<br>+1.5 |" in whole
    assert "| AdamW | +1.5 ±\xa00.7<br>p = 0.20, Holm 0.20 |" in whole


def test_recovery_times() -> None:
    """All right, then after sample 100 wrong for 30 samples, then right; after 200 wrong until the end."""
    right = np.concatenate([np.ones(100), np.zeros(30), np.ones(70), np.zeros(60)])
    samples = np.arange(10, 261, 10)
    curve = (samples.astype(float), np.array([100 * right[:n].mean() for n in samples]))
    assert recovery_times(curve, RecoveryRule([100, 200], 80, 20)) == [50, math.inf]
    assert recovery_times(curve, RecoveryRule([100, 200], 50, 20)) == [40, math.inf]
    assert recovery_times(curve, RecoveryRule([100], 0, 20)) == [20]


def test_recovery_relative_to_the_accuracy_before() -> None:
    """Four of five right before the change at 100 and three of five after it; nine tenths of four fifths is 72 %."""
    right = np.array([1, 1, 1, 1, 0] * 20 + [0, 0, 0, 1, 0] * 8 + [1, 1, 1, 0, 0] * 8 + [1, 1, 1, 1, 0] * 4)
    samples = np.arange(10, 201, 10)
    curve = (samples.astype(float), np.array([100 * right[:n].mean() for n in samples]))
    # of the last 20 so many are right: 15 of them 70, ten of 80 per cent, and five of 60
    assert recovery_times(curve, RecoveryRule([100], 90, 20, relative=True)) == [100]
    assert recovery_times(curve, RecoveryRule([100], 75, 20, relative=True)) == [60]
    assert recovery_times(curve, RecoveryRule([100], 60, 20)) == [60]
    assert recovery_times(curve, RecoveryRule([100], 72, 20)) == [100]


def test_a_rule_has_a_level_or_a_share(study: Path) -> None:
    found = {"changes": {"a": [500], "b": []}, "share": 90, "last": 100}
    raw = {**STUDY, "comparison": {**STUDY["comparison"], "recovery": found}}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert recovery_rules(load_table(str(study))) == {"a": RecoveryRule([500], 90, 100, relative=True)}
    wanted = {"AdamW": {"recovery": 0.5}, "the best": {"best_of": ["adamw", "adagrad"], "recovery": 0.5}}
    targets, _, text = page(study, recovery=found, targets=wanted).partition("### Recovery time after a change")
    assert (
        "recovery in 0.5 of the samples of AdamW, tuned (0 of 1 streams): missed on Stream a (1.00, by 0.5)" in targets
    )
    assert "of the best (0 of 1 streams): missed on Stream a (1.00 to AdamW, by 0.5)" in targets
    assert "accuracy over the last 100, all after the change, is 90 % of the method's own over as many before" in text
    assert "| method | Stream a |\n| --- | ---: |\n| Ours | 100 (100 to 100) |" in text
    for wrong in ({"level": 80}, {"share": None}):
        found |= wrong
        study.write_text(yaml.safe_dump(raw, sort_keys=False))
        with pytest.raises(ValueError, match="comparison.recovery"):
            load_table(str(study))


def test_the_page_says_recovery_times(study: Path) -> None:
    rules = {"recovery": {"changes": [500], "level": 10, "last": 100}, "targets": {"AdamW": {"recovery": 0.25}}}
    targets, _, text = page(study, **rules).partition("### Recovery time after a change")
    assert (
        "recovery in 0.25 of the samples of AdamW, tuned (0 of 2 streams): missed on Stream a (1.00, by 0.75)"
        in targets
    )
    assert "| Ours | 100 (100 to 100) | 100 (100 to 100) |\n| AdamW | 100 (100 to 100)<br>1.00 of it |" in text
    rules["recovery"]["level"] = 1000
    assert "missed on Stream a (no recovery after half of the changes or more)" in page(study, **rules)


def test_changes_of_each_column(study: Path) -> None:
    found = {"changes": {"a": [500], "b": [300, 400]}, "level": 10, "last": 100}
    raw = {**STUDY, "comparison": {**STUDY["comparison"], "recovery": found}}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert recovery_rules(load_table(str(study))) == {
        "a": RecoveryRule([500], 10, 100),
        "b": RecoveryRule([300, 400], 10, 100),
    }
    del found["changes"]["b"]
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(ValueError, match=r"comparison\.recovery\.changes has no b"):
        recovery_rules(load_table(str(study)))


def test_the_page(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Methods are lines, streams columns; the answer comes first, the details can be opened."""
    text = page(study, draw=True)
    free, _, tuned = text.partition("### Tuned methods")
    assert "\n\nAverage online accuracy (%): mean ± standard deviation over the seeds" in free
    assert "### Methods that need no learning rate\n\n| method | Stream a | Stream b (reserved) |" in free
    assert "| Ours | **82.0 ±\xa02.6** | **60.5 ±\xa00.7** |\n| AdaGrad | **82.0 ±\xa01.0**<br>+0.0 | \u2013 |" in free
    first = "| AdamW | 79.0 ±\xa01.0<br>+3.0<br>lr\xa00.001 | 59.2 ±\xa00.4<br>+1.2<br>lr\xa00.001 |"
    assert f"| Ours | **82.0 ±\xa02.6** | **60.5 ±\xa00.7** |\n{first}" in tuned
    assert "99.0<br>\u221219.0<br>lr\xa00.001<br>1 seed |" in tuned  # best, but of fewer seeds: not in bold
    differences = tuned.partition("<summary>Differences")[2]
    assert "| AdamW | +3.0 ±\xa02.6<br>p = 0.19, Holm 0.38 | +1.2 ±\xa00.4<br>p = 0.13, Holm 0.13 |" in differences
    reserved = tuned.partition("<summary>Reserved seeds (2)</summary>")[2].partition("</details>")[0]
    assert "**90.0**<br>\u22125.0<br>lr\xa00.01 |" in reserved
    assert "p = " not in reserved  # one seed
    assert "Mean over the run" not in text  # an online score is an average already
    assert "never" in text.partition("<summary>Samples to")[2].partition("</details>")[0]
    assert "p = 0<" not in text
    assert f"filtune reproduce {study}" in text
    assert (study.parent / "win_study.png").stat().st_size > 10_000
    assert "win.md" in capsys.readouterr().out


@given(st.lists(st.lists(st.integers(0, 100).map(float), max_size=4), max_size=6), st.booleans())
def test_the_best_has_the_best_mean_of_those_with_the_most_seeds(values: list[list[float]], loss: bool) -> None:
    metric = "val_loss" if loss else "val_accuracy"
    methods = [SeedRuns(f"row/a/{i}", runs(str(i), found, metric)) for i, found in enumerate(values)]
    best, most = best_runs(methods, metric), max(map(len, values), default=0)
    means = [sum(found) / most for found in values if most and len(found) == most]
    if best is None or not means:
        assert (best, means) == (None, [])
        return
    assert len(best.records) == most
    mean = sum(best.values(metric).values()) / most
    assert mean == pytest.approx((min if loss else max)(means))


def test_what_diverged_is_named_and_decides_a_target(study: Path) -> None:
    """A baseline that diverged with all seeds was run: the best of the others is the best."""
    made = {cell: runs(cell, values) for cell, values in VALUES.items()}
    made["adagrad/b"] = runs("lost", [10.0, 10.0, 10.0], status="diverged", reason="nan")
    manifest(study.parent, "study", made, missing={"adamw/b/lr=0.01": "<b>no</b> memory"})
    text = page(study, targets={"the best": {"best_of": ["adamw", "adagrad"], "ahead": 1.0}})
    assert "reached on Stream b (+1.2 to AdamW);" in text
    lacking = text.partition("<summary>Not run</summary>")[2].partition("</details>")[0]
    assert "* AdaGrad: Stream b (diverged with seeds 0, 1, 2)\n" in lacking
    assert "lr=0.01: all seeds, &lt;b>no&lt;/b> memory)" in lacking


def test_what_was_not_run_is_named(study: Path) -> None:
    lacking = page(study).partition("<summary>Not run</summary>")[2].partition("</details>")[0]
    assert "* Ours: Stream b (reserved) (seed 2)" not in lacking
    assert "* Ours: Stream b (seed 2)\n" in lacking
    assert "* AdaGrad: Stream b\n" in lacking
    assert "* AdamW with decay: Stream a (lr=0.001: seeds 1, 2); Stream b\n" in lacking


@given(st.data())
def test_holms_correction_is_over_the_baselines_that_were_tested(data: st.DataObject) -> None:
    """The smallest p counts as often as there are tests, the next once less, and none is below the one before."""
    scores = st.lists(st.integers(0, 50).map(float), min_size=2, max_size=5)
    own = dict(enumerate(data.draw(scores)))
    others = [dict(enumerate(data.draw(scores))) for _ in range(data.draw(st.integers(1, 6)))]
    *tests, untested = with_holm([paired(own, other) for other in [*others, {0: 1.0}]])
    assert untested is None
    found = [test for test in tests if test]
    left = len(found)
    bound = 0.0
    for test in sorted(found, key=lambda test: test.p):
        bound = max(bound, min(1.0, left * test.p))
        left -= 1
        assert test.adjusted == pytest.approx(bound)
        assert stars(bound).strip() == "*" * sum(bound < level for level in (0.05, 0.01, 0.001))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.floats(0.1, 20))
def test_labels_are_apart_in_order_and_centred(heights: list[float], step: float) -> None:
    places = spread(heights, step)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    assert all(places[b] - places[a] >= step - 1e-6 for a, b in itertools.pairwise(order))
    assert sum(places) == pytest.approx(sum(heights), abs=1e-6)
    if all(heights[b] - heights[a] >= step for a, b in itertools.pairwise(order)):
        assert places == pytest.approx(heights)


def test_samples_to_a_score_are_averaged_over_the_seeds_that_reach_it(study: Path) -> None:
    """AdaGrad ends above the method with seeds 0 and 1 of three."""
    text = page(study).partition("<summary>Samples to the baseline's final score</summary>")[2]
    assert "the mean over the seeds that reach it, and the number of those that never do." in text
    assert re.search(r"\| AdaGrad \| 0\.\d\d<br>never 2 of 3 \| \u2013 \|", text)


def test_the_class_of_a_row_and_who_must_know_the_end(study: Path) -> None:
    decay = {"seed_everything": 0, "model": {"schedule": {"decay": "linear"}}}
    made = {cell: runs(cell, values) for cell, values in VALUES.items()}
    made["adamw-decay/a/lr=0.001"] = runs("decayed", [70.0, 71.0, 72.0], config=decay)
    manifest(study.parent, "study", made)
    assert "| AdamW with decay† |" in page(study)
    rows = [{**row, "rate": "published"} if row["name"] == "adagrad" else row for row in STUDY["rows"]]
    text = page(study, {**STUDY, "rows": rows})
    assert "Methods that need no learning rate" not in text
    _, _, table = text.partition("### Tuned methods, and those with a published or default rate")
    assert table.startswith("\n\nEach with the learning rate that is best on the stream, unless its rate is fixed.\n")
    assert "| AdaGrad (fixed rate) |" in table
    rows[0] = {**rows[0], "rate": "high"}
    study.write_text(yaml.safe_dump({**STUDY, "rows": rows}, sort_keys=False))
    with pytest.raises(ValueError, match="rate is 'high', not none, tuned or published"):
        load_table(str(study))


def test_a_metric_that_is_better_the_lower_it_is(study: Path) -> None:
    """The best point has the lowest loss, and the samples are those until the loss is as low."""
    values = {"ours/a": [0.4, 0.5], "adamw/a/lr=0.001": [0.6, 0.7], "adamw/a/lr=0.01": [0.9, 0.9]}
    _, stream = compared_on(study, "val_loss", values)
    assert stream.baselines["AdamW"].setting == "lr=0.001"
    assert convergence_shares(stream.method, stream.baselines["AdamW"], "val_loss") == [0.25, 0.25]  # the loss rises


def test_a_figure_of_one_stream(study: Path) -> None:
    page(study, draw=True, figure={"columns": ["a"]})
    sizes = [(study.parent / f"win_study_panel.{end}").stat().st_size for end in ("png", "svg")]
    assert all(5_000 < size < 150_000 for size in sizes)
    assert "AdaGrad" in (study.parent / "win_study_panel.svg").read_text()
    with pytest.raises(ValueError, match="figure names 'c', which is none of its columns"):
        page(study, figure={"columns": ["c"]})


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 3), (9, 3)])
def test_panels_leave_few_places_empty(panels: int, columns: int) -> None:
    names = [str(i) for i in range(panels)]
    records = {name: [*runs("ours", [80.0]).values()] for name in names}
    line = Line("Ours", looks([("Ours", "filtune", "paper")])["Ours"], records)
    plan = plan_curves("own", "Own", [(name, name, "online_accuracy") for name in names], ["metric"], [line])
    left = panels % columns
    assert [len(row) for row in plan.rows] == [columns] * (panels // columns) + [left] * (left > 0)


def test_a_study_without_a_comparison_or_without_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "comparison": None}))
    table = load_table(str(path))
    with pytest.raises(ValueError, match="has no comparison with a method and baselines"):
        compare_streams(table, Archive([tmp_path], [table]))
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    with pytest.raises(ValueError, match="nothing of it was run; see `filtune reproduce`"):
        report.main(["--study", str(path), "--root", str(tmp_path), "--output", str(tmp_path / "win.md")])


def test_several_studies_and_the_posterior_make_one_page(study: Path) -> None:
    other = study.with_name("other.yaml")
    other.write_text(yaml.safe_dump({**STUDY, "title": "Another"}, sort_keys=False))
    manifest(study.parent, "other", {cell: runs(cell, values) for cell, values in VALUES.items()})
    views = {
        "ours, softmax": {"nll": [0.5, 0.6, 0.55], "noise": [80, 81, 82]},
        "ours, moderated": {"nll": [0.4, 0.5, 0.452], "noise": [79, 82, 84]},
        "ours, variance": {"noise": [50, 50, 50]},
        "AdamW, softmax": {"nll": [0.7, 0.8, 0.753], "noise": [70, 71, 72]},
    }
    columns = {"a": {view: {f: {"seeds": v} for f, v in found.items()} for view, found in views.items()}}
    posterior = study.with_name("uncertainty.json")
    posterior.write_text(json.dumps({"columns": columns}))
    output = study.parent / "win.md"
    options = ["--root", str(study.parent), "--posterior", str(posterior), "--title", "All", "--output", str(output)]
    report.main(["--study", str(study), str(other), *options])
    text = output.read_text()
    assert text.startswith("# All\n\n## A study\n")
    assert "\n## Another\n" in text
    assert "(win_study.png)" in text
    assert "(win_other.png)" in text
    assert "| log loss (nats) | 0.550 ± 0.050 | **0.451 ± 0.050** | \u2013 | 0.751 ± 0.050 |" in text
    assert "| noise, detected (%) | 81.0 ± 1.0 | 81.7 ± 2.5 | 50.0 ± 0.0 | 71.0 ± 1.0 |" in text
    assert f"--title All --posterior {posterior} --output {output}" in text
    posterior.write_text("{}")
    with pytest.raises(ValueError, match="is not what `filtune report --evaluate` writes"):
        report.main(["--study", str(study), *options])


def test_a_study_and_the_command_of_an_earlier_release_are_understood(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"method": "ours", "rivals": {"AdamW": ["adamw"]}, "goals": {"AdamW": {"ahead": 1.0}}}
    raw = {key: value for key, value in STUDY.items() if key != "comparison"} | {"contest": old}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    contest([str(study), "--root", str(study.parent), "--output", str(study.parent / "old.md")])
    assert "filtune contest is now filtune report --study" in capsys.readouterr().err
    assert "1 ahead of AdamW, tuned (2 of 2 streams): reached on" in (study.parent / "old.md").read_text()


def test_a_stream_that_is_scored_once_has_no_panel(study: Path) -> None:
    """It is named below the figure."""
    made = {cell: runs(cell, values, "val_accuracy") for cell, values in VALUES.items()}
    for cell in ("ours/b", "adamw/b/lr=0.001"):
        for record in made[cell].values():
            record["curves"] = {"val/accuracy": [[2000], [60.0]]}
    study.write_text(yaml.safe_dump({**STUDY, "metric": "val_accuracy"}, sort_keys=False))
    manifest(study.parent, "study", made)
    table = load_table(str(study))
    plan, panel = study_part(table, Archive([study.parent], [table]), "own").plans
    assert ([len(row) for row in plan.rows], plan.note) == ([1], "no curve on Stream b")
    assert panel.rows == [[]]
