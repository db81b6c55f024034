"""Calibration, selective prediction and detection: against definitions, and over runs that were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from filtune.experiments import reproduce
from filtune.reports import report
from filtune.reports.evaluation import calibration, detection, selective
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from tests.cli.harness import forked_workers

STUDY = {
    "title": "A study", "kind": "table", "metric": "online_accuracy", "seeds": [0],
    "set": {"data.max_samples": 30, "data.max_val_samples": 30, "data.batch_size": 1, "trainer.max_epochs": 1},
    "comparison": {"method": "ours", "baselines": {"AdamW": ["adamw"]}},
    "columns": [{"name": "digits", "title": "Digits", "task": "digits", "backbone": "lenet5"}],
    "rows": [
        {"name": "ours", "title": "Ours", "optimizer": "filtune"},
        {"name": "adamw", "title": "AdamW", "optimizer": "adamw_1e-3"},
    ],
}  # fmt: skip


@given(seed=st.integers(0, 2**16), n=st.integers(1, 40), classes=st.integers(2, 5))
def test_calibration_is_that_of_torchmetrics(seed: int, n: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(n, classes, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(classes, (n,), generator=generator)
    found = calibration(p, labels)
    assert found["ece"] == pytest.approx(100 * float(multiclass_calibration_error(p, labels, classes)), abs=1e-4)
    assert found["nll"] == pytest.approx(float(torch.nn.functional.nll_loss(p.log(), labels)))
    onehot = torch.nn.functional.one_hot(labels, classes)
    assert found["brier"] == pytest.approx(float((p - onehot).square().sum(1).mean()))


@given(seed=st.integers(0, 2**16), n=st.integers(1, 40))
def test_the_risk_of_the_surest_is_that_of_a_loop(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    confidence, correct = torch.rand(n, generator=generator), torch.rand(n, generator=generator) < 0.7
    order = sorted(range(n), key=lambda i: -float(confidence[i]))
    risks = [sum(not correct[i] for i in order[:k]) / k for k in range(1, n + 1)]
    found = selective(confidence, correct)
    assert found["aurc"] == pytest.approx(100 * sum(risks) / n)
    answered = order[: max(1, round(0.8 * n))]
    assert found["accuracy_at_80"] == pytest.approx(100 * sum(bool(correct[i]) for i in answered) / len(answered))


def test_detection_is_the_chance_that_an_outsider_has_the_larger_number() -> None:
    inside, outside = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    pairs = [(i < o) + 0.5 * (i == o) for i in inside.tolist() for o in outside.tolist()]
    assert detection(inside, outside) == pytest.approx(100 * sum(pairs) / len(pairs))


@pytest.mark.slow
def test_runs_are_judged_and_the_figures_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    root, output = tmp_path / "root", tmp_path / "kept" / "uncertainty.json"
    with forked_workers():
        assert reproduce.main([str(study), "--root", str(root), "--jobs", "2", "--threads", "1"]) == 0
    options = [str(root), "--study", str(study), "--posterior", str(output)]
    report.main([*options, "--evaluate", "digits"])
    kept = json.loads(output.read_text())
    found = kept["columns"]["digits"]
    assert list(found) == [
        "ours, softmax",
        "ours, posterior predictive",
        "ours, untempered",
        "ours, variance",
        "AdamW, softmax",
    ]
    assert set(found["ours, variance"]) == {"rotated by 90 degrees", "uniform noise"}
    for view in ("ours, softmax", "ours, posterior predictive", "ours, untempered", "AdamW, softmax"):
        assert {"accuracy", "nll", "brier", "ece", "aurc", "accuracy_at_80"} <= set(found[view])
        assert all(0 <= found[view][kind]["mean"] <= 100 for kind in ("rotated by 90 degrees", "uniform noise"))
    assert found["ours, posterior predictive"]["nll"]["mean"] != found["ours, softmax"]["nll"]["mean"]
    assert {"versions", "commit", "device"} <= set(kept["environment"])
    assert "accuracy_at_80" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--evaluate mnist: no runs of both the method and AdamW"):
        report.main([*options, "--evaluate", "mnist"])
    report.main([*options, "--output", str(tmp_path / "page.md")])
    command = f"filtune report {root} --study {study} --evaluate digits --posterior {output}"
    assert command in (tmp_path / "page.md").read_text()


def test_an_evaluation_needs_one_study_and_a_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--evaluate: name one study by --study and the JSON to write by --posterior"):
        report.main([str(tmp_path), "--evaluate", "mnist"])
