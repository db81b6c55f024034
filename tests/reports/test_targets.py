"""Targets of a study: reached, missed or open, against one baseline or the best of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.reports.factory import key_of, manifest, record, runs
from tests.reports.studies import VALUES, page


def test_targets_reached_and_missed(study: Path) -> None:
    """On stream a the method is 3.0 ahead of AdamW, level with AdaGrad; on stream b AdaGrad never ran."""
    targets = {"AdamW": {"ahead": 2.5, "share": 0.1}, "AdaGrad": {"ahead": 0.5}}
    text = page(study, targets=targets, discussion="Missed\n\n* by a hair.\n")
    assert "* [A study](#a-study)\n    * **Missed**: 2.5 ahead of AdamW, tuned (1 of 2 streams)\n" in text
    found = text.partition("### Targets")[2].partition("<details")[0]
    assert (
        "2.5 ahead of AdamW, tuned (1 of 2 streams): reached on Stream a (+3.0); missed on Stream b (+1.2, by 1.2)."
        in found
    )
    assert "**Missed**: in 0.1 of the samples of AdamW, tuned (0 of 2 streams): missed on Stream a" in found
    assert (
        "0.5 ahead of AdaGrad (0 of 2 streams): missed on Stream a (+0.0, by 0.5); open on Stream b (not run)." in found
    )
    assert "\n\nMissed\n\n* by a hair.\n\n" in found
    found = page(study, targets={"AdaGrad": {"ahead": -0.3, "streams": 1}})
    assert "**Reached**: at most 0.3 behind AdaGrad (1 of 2 streams, 1 needed)" in found
    found = page(study, targets={"AdaGrad": {"ahead": -0.3}})
    assert (
        "**Open**: at most 0.3 behind AdaGrad (1 of 2 streams): reached on Stream a (+0.0); open on Stream b (not run)"
        in found
    )
    with pytest.raises(ValueError, match=r"comparison\.targets names Adam, which is no baseline and has no best_of"):
        page(study, targets={"Adam": {"ahead": 1.0}})
    with pytest.raises(ValueError, match=r"comparison\.targets\.AdamW has no aheed; did you mean ahead\?"):
        page(study, targets={"AdamW": {"aheed": 1.0}})
    with pytest.raises(ValueError, match=r"targets\.all\.best_of names 'ours', which is none of the baselines' rows"):
        page(study, targets={"all": {"best_of": ["ours"], "ahead": 1.0}})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"recovery": 0.5}, r"targets\.AdamW\.recovery needs comparison\.recovery, with changes, last"),
        ({"streams": 1}, r"targets\.AdamW sets no target; it needs one of ahead, level, log_loss, recovery, share"),
    ],
)
def test_a_target_that_no_stream_could_reach_is_refused(study: Path, target: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        page(study, targets={"AdamW": target})


def test_a_target_in_a_metric_that_no_run_has_is_open(study: Path) -> None:
    text = page(study, targets={"AdamW": {"log_loss": 0.0}})
    assert "**Open**: log loss not above that of AdamW, tuned (0 of 0 streams): no stream has the metric." in text
    assert "**Reached**" not in text


def test_targets_say_what_diverged(study: Path) -> None:
    """A method that diverged has missed its targets, and with some of the seeds it is compared with the others."""
    made = {cell: runs(cell, found) for cell, found in {**VALUES, "adagrad/b": [50.0, 50.0]}.items()}
    made["ours/a"][2]["status"] = "diverged"
    for seed in (0, 1):
        made["adagrad/b"][seed]["status"] = "diverged"
    manifest(study.parent, "study", made)
    text = page(study, targets={"AdaGrad": {"ahead": 0.5}})
    assert "missed on Stream a (\u22121.0, by 1.5, 2 of 3 seeds); open on Stream b (the baseline diverged)." in text
    for run in made["ours/b"].values():
        run["status"] = "diverged"
    manifest(study.parent, "study", made)
    text = page(study, targets={"AdamW": {"ahead": 0.0}})
    assert "**Missed**: level with AdamW, tuned (1 of 2 streams)" in text
    assert "missed on Stream b (diverged)." in text
    for run in made["ours/a"].values():
        run["status"] = "diverged"
    manifest(study.parent, "study", made)
    with pytest.raises(ValueError, match="study: its method diverged in all runs; see `filtune reproduce"):
        page(study)


def test_a_target_against_the_best_of_some_rows(study: Path) -> None:
    """The best is chosen on each stream, among the rows with the most seeds; level is a paired t-test."""
    rows = {"best_of": ["adamw", "adagrad"]}
    targets = {"the best": {**rows, "ahead": 1.0}}
    assert "missed on Stream a (+0.0 to AdaGrad, by 1); open on Stream b (+1.2 to AdamW; not run: AdaGrad)" in page(
        study, targets=targets
    )
    values = {**VALUES, "adagrad/b": [50.0, 50.0]}
    manifest(study.parent, "study", {cell: runs(cell, found) for cell, found in values.items()})
    text = page(study, targets={**targets, "the better": {**rows, "level": 0.05}})
    assert (
        "1 ahead of the best (1 of 2 streams): reached on Stream b (+1.2 to AdamW); "
        "missed on Stream a (+0.0 to AdaGrad, by 1)."
    ) in text
    assert (
        "**Reached**: at least level with the better (not below, or not significantly at 5 %) (2 of 2 streams)" in text
    )
    for below, reached in (([90.0, 90.0, 93.0], False), ([90.0, 70.0, 92.0], True)):
        manifest(study.parent, "study", {c: runs(c + "2", v) for c, v in {**values, "adagrad/a": below}.items()})
        text = page(study, targets={"the best": {**rows, "level": 0.05}})
        assert ("**Reached**: at least level" in text) == reached
        assert ("missed on Stream a (\u22129.0 to AdaGrad, p = 0.0" in text) != reached


def test_a_target_on_log_loss_and_validation(study: Path) -> None:
    made = {}
    for row, loss, score in (("ours", 0.3, 90.0), ("adamw", 0.4, 95.0), ("adagrad", 0.35, 80.0)):
        cell = f"{row}/a" + ("/lr=0.01" if row == "adamw" else "")
        made[cell] = {
            seed: record(
                key_of(cell, "both", seed), seed, {"online_accuracy": 80.0, "online_nll": loss, "val_accuracy": score}
            )
            for seed in range(3)
        }
    manifest(study.parent, "study", made)
    best = {"best_of": ["adamw", "adagrad"], "log_loss": 0.0, "validation": 0.0, "streams": 1}
    text = page(study, targets={"the best baseline": best})
    assert "**Reached**: log loss not above that of the best baseline" in text
    assert "reached on Stream a (\u22120.050 to AdaGrad)" in text
    assert "validation score not below that of the best baseline" in text
    assert "missed on Stream a (\u22125.0 to AdamW, by 5); open on Stream b (not run)" in text
    assert "| Ours | **0.300 ±\xa00.000** | \u2013 |" in text
    assert "0.400 ±\xa00.000<br>\u22120.100 |" in text  # no test: the seeds differ by the same
