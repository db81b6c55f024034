"""A method against tuned baselines: which point is the baseline, what is paired, how fast, and the page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from filtune.experiments.archive import Archive
from filtune.experiments.tables import load_table
from filtune.reports import report
from filtune.reports.curves import panel_columns
from filtune.reports.study import RecoveryRule, compare_streams, recovery_rules, recovery_times, samples_to

from filtune.cli import contest
from tests.reports.factory import manifest, runs

STUDY = {
    "title": "A study",
    "kind": "table",
    "metric": "online_accuracy",
    "seeds": [0, 1, 2],
    "comparison": {
        "method": "ours",
        "baselines": {"AdamW": ["adamw", "adamw-decay"], "AdaGrad": ["adagrad"]},
        "reserved": {"seeds": [2], "columns": ["b"]},
    },
    "columns": [{"name": n, "title": f"Stream {n}", "task": "digits", "backbone": "lenet5"} for n in ("a", "b")],
    "rows": [
        {"name": "ours", "title": "Ours", "optimizer": "filtune"},
        {"name": "adamw", "title": "AdamW", "optimizer": "adamw", "grid": {"optimizer.lr": [0.001, 0.01]}},
        {"name": "adamw-decay", "title": "AdamW", "optimizer": "adamw", "grid": {"optimizer.lr": [0.001]}},
        {"name": "adagrad", "title": "AdaGrad", "optimizer": "adagrad"},
    ],
}
VALUES = {
    "ours/a": [80.0, 81.0, 85.0],
    "adamw/a/lr=0.001": [78.0, 80.0, 79.0],
    "adamw/a/lr=0.01": [70.0, 60.0, 90.0],
    "adamw-decay/a/lr=0.001": [99.0],  # best, but of fewer seeds
    "adagrad/a": [81.0, 82.0, 83.0],
    "ours/b": [60.0, 61.0],
    "adamw/b/lr=0.001": [59.0, 59.5],
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study and its records."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    manifest(tmp_path, "study", {cell: runs(cell, values) for cell, values in VALUES.items()})
    return path


def test_a_baseline_is_its_best_point_and_the_differences_are_paired(study: Path) -> None:
    table = load_table(str(study))
    first, second = compare_streams(table, Archive([study.parent], [table]))
    assert first.comparisons["AdamW"].baseline.name == "adamw/a/lr=0.001"
    assert first.comparisons["AdamW"].differences == [2, 1, 6]
    assert first.comparisons["AdamW"].test is not None
    assert first.comparisons["AdamW"].test.difference == pytest.approx(3)
    assert first.comparisons["AdaGrad"].differences == [-1, -1, 2]
    assert (first.reserved, second.reserved) == (False, True)
    assert set(second.comparisons) == {"AdamW"}


def test_on_other_seeds_another_point_may_be_best(study: Path) -> None:
    table = load_table(str(study))
    (only,) = compare_streams(table, Archive([study.parent], [table]), [2])
    assert only.comparisons["AdamW"].baseline.name == "adamw/a/lr=0.01"
    assert only.comparisons["AdamW"].differences == [-5]
    assert only.comparisons["AdamW"].test is None


def test_samples_to_a_target_for_good() -> None:
    curve = (np.array([50.0, 100, 150, 200]), np.array([60.0, 40, 50, 55]))
    assert samples_to(curve, 50, for_good=True) == 150
    assert samples_to(curve, 30, for_good=True) == 50
    assert math.isinf(samples_to(curve, 56, for_good=True))
    assert samples_to(curve, 50, for_good=False) == 50
    assert samples_to(curve, 61, for_good=False) == math.inf


def test_a_comparison_on_validation_takes_the_first_time_a_level_is_reached(study: Path) -> None:
    """The factory's validation is 5 and 2 below its end after a quarter and a half."""
    raw = {**STUDY, "metric": "val_accuracy", "columns": STUDY["columns"][:1]}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    values = {"ours/a": [92.0, 92.0], "adamw/a/lr=0.001": [90.0, 91.0], "adamw/a/lr=0.01": [80.0, 80.0]}
    manifest(study.parent, "study", {cell: runs(cell, found, "val_accuracy") for cell, found in values.items()})
    table = load_table(str(study))
    (stream,) = compare_streams(table, Archive([study.parent], [table]))
    assert stream.comparisons["AdamW"].differences == [2, 1]
    assert stream.comparisons["AdamW"].speed == {0: 1000 / 2000, 1: 1.0}
    report.main(["--study", str(study), "--root", str(study.parent), "--output", str(study.parent / "win.md")])
    text = (study.parent / "win.md").read_text()
    assert "the validation score first reaches the baseline's final score" in text
    assert "Prequential" not in text  # with validation scores samples may be repeated
    assert "Validation accuracy (%):\n\n| stream | method | AdamW, tuned |" in text
    whole = text.partition("### Mean over the run")[2]
    assert "| Stream a | 89.7 ± 0.0 | 88.2 ± 0.7 | +1.5 ± 0.7 (2 seeds, p = 0.2) |" in whole


def test_recovery_times() -> None:
    """All right, then after sample 100 wrong for 30 samples, then right; after 200 wrong for good."""
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
    report.main(["--study", str(study), "--root", str(study.parent), "--output", str(study.parent / "win.md")])
    text = (study.parent / "win.md").read_text().partition("### Recovery time after a change")[2]
    assert "accuracy over the last 100, all after the change, is 90 % of the method's own over as many before" in text
    assert "| Stream a | 100 (100 to 100) |" in text
    assert "| Stream b |" not in text.partition("###")[0]
    for wrong in ({"level": 80}, {"share": None}):
        found |= wrong
        study.write_text(yaml.safe_dump(raw, sort_keys=False))
        with pytest.raises(ValueError, match="comparison.recovery"):
            load_table(str(study))


def test_the_page_says_recovery_times(study: Path) -> None:
    rules = {"recovery": {"changes": [500], "level": 10, "last": 100}, "targets": {"AdamW": {"recovery": 0.25}}}
    raw = {**STUDY, "comparison": {**STUDY["comparison"], **rules}}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    report.main(["--study", str(study), "--root", str(study.parent), "--output", str(study.parent / "win.md")])
    targets, _, text = (study.parent / "win.md").read_text().partition("### Recovery time after a change")
    assert "recovery in 0.25 of the samples: missed by 0.75" in targets
    assert "| Stream a | 100 (100 to 100) | 100 (100 to 100); the method takes 1.00 of it |" in text


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


def test_targets_reached_and_missed(study: Path) -> None:
    """On stream a the method is 3.0 ahead of AdamW and level with AdaGrad; SGD never ran."""
    targets: dict[str, dict[str, float]] = {"AdamW": {"ahead": 2.5, "share": 0.1}, "AdaGrad": {"ahead": 0.5}}
    raw = {**STUDY, "columns": STUDY["columns"][:1], "comparison": {**STUDY["comparison"], "targets": targets}}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    report.main(["--study", str(study), "--root", str(study.parent), "--output", str(study.parent / "win.md")])
    page = (study.parent / "win.md").read_text()
    assert "* [A study](#a-study): AdamW, tuned: 2.5 ahead on 1 of 1, in 0.1 of the samples on 0 of 1; AdaGrad:" in page
    text = page.partition("### Targets")[2].partition("### Samples to")[0]
    assert "2.5 ahead: **reached**; in 0.1 of the samples: missed" in text
    assert "| 0.5 ahead: missed by 0.5 |" in text
    targets = {"AdaGrad": {"ahead": -0.3}}
    raw["comparison"] |= {"targets": targets, "discussion": "Missed\n\n* by a hair.\n"}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    report.main(["--study", str(study), "--root", str(study.parent), "--output", str(study.parent / "win.md")])
    text = (study.parent / "win.md").read_text().partition("### Targets")[2].partition("### Samples to")[0]
    assert "| stream | AdaGrad |\n| --- | ---: |\n| Stream a | at most 0.3 behind: **reached** |\n\nMissed" in text
    assert "\n\n* by a hair.\n\n" in text
    raw["comparison"] |= {"targets": {"Adam": {"ahead": 1.0}}, "discussion": ""}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(ValueError, match=r"comparison\.targets names Adam, which is no baseline"):
        report.main(["--study", str(study), "--root", str(study.parent), "--output", str(study.parent / "win.md")])


def test_the_page(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = study.parent / "page" / "win.md"
    report.main(["--study", str(study), "--root", str(study.parent), "--output", str(output)])
    text = output.read_text()
    assert "| Stream a | 82.0 ± 2.6 | 79.0 ± 1.0 (adamw, lr=0.001) | +3.0 ± 2.6 (3 seeds, p = 0.19) |" in text
    assert "| Stream b (reserved) | 60.5 ± 0.7 | 59.2 ± 0.4 (adamw, lr=0.001) | +1.2 ± 0.4 (2 seeds" in text
    reserved = text.partition("### Reserved seeds (2)")[2].partition("### Samples to")[0]
    assert "| Stream a | 85.0 | 90.0 (adamw, lr=0.01) | \u22125.0 (1 seed) |" in reserved
    assert "### Mean over the run" not in text  # an online score is an average already
    assert "never" in text.partition("### Samples to")[2].partition("## The commands")[0]
    assert f"filtune reproduce {study}" in text
    assert (output.parent / "win_study.png").stat().st_size > 10_000
    assert "win.md" in capsys.readouterr().out


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 3), (9, 3)])
def test_panels_leave_few_places_empty(panels: int, columns: int) -> None:
    assert panel_columns(panels) == columns


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
        "AdamW, softmax": {"nll": [0.7, 0.8, 0.752], "noise": [70, 71, 72]},
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
    with pytest.raises(ValueError, match="is not what `python -m benchmarks.uncertainty` writes"):
        report.main(["--study", str(study), *options])


def test_a_study_and_the_command_of_an_earlier_release_are_understood(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"method": "ours", "rivals": {"AdamW": ["adamw"]}, "goals": {"AdamW": {"ahead": 1.0}}}
    raw = {key: value for key, value in STUDY.items() if key != "comparison"} | {"contest": old}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    contest([str(study), "--root", str(study.parent), "--output", str(study.parent / "old.md")])
    assert "filtune contest is now filtune report --study" in capsys.readouterr().err
    assert "1 ahead: **reached**" in (study.parent / "old.md").read_text()
