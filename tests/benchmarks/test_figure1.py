"""GRNG's figure 1 runs anywhere on a few pairs of sentences; batches, warm-up and evaluations are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.optimizers import Gaussian

from benchmarks.papers import grng_figure1, learning
from benchmarks.papers.learning import Problem, Rule


@pytest.fixture
def problem(generated_glue: Path, tiny_bert: Path) -> Problem:
    return Problem(
        "stsb", 10, str(generated_glue), str(tiny_bert), 6, batch_size=4, backbone_args=grng_figure1.BACKBONE
    )


def test_what_came_later_changes_no_kept_result() -> None:
    rule = Rule("AdamW", {"lr": 1e-3})
    assert learning.settings(Problem("sst2", 8), rule, 1) == {
        "task": "sst2",
        "samples": 8,
        "source": None,
        "backbone": None,
        "test_samples": None,
        "weights": None,
        "optimizer": "AdamW",
        "arguments": {"lr": 1e-3},
        "seed": 1,
    }
    later = Problem("sst2", 8, batch_size=2, backbone_args={"rank": 4})
    told = learning.settings(later, Rule("AdamW", {}, warmup=3), 1)
    assert (told["batch_size"], told["backbone_args"], told["warmup"]) == (2, {"rank": 4}, 3)


def test_a_problem_in_batches(problem: Problem) -> None:
    backbone, stream, _ = learning.prepare(problem, 0)
    assert [len(label) for _, label in stream] == [4, 4, 2]
    single, alone, _ = learning.prepare(Problem(**{**vars(problem), "batch_size": 1}), 0)
    torch.testing.assert_close(torch.cat([y for _, y in stream]), torch.cat([y for _, y in alone]), rtol=0, atol=0)
    trained = {name.split(".")[-4] for name, p in backbone.named_parameters() if p.requires_grad and "lora_A" in name}
    assert trained == {"query", "value"}
    # the gradient of the mean over all samples, whatever the batches; sums of ten terms in float32
    norm = learning.gradient_norm(backbone, stream, Gaussian)
    assert norm == pytest.approx(learning.gradient_norm(single, alone, Gaussian), rel=1e-4)
    loss = torch.stack([0.5 * (backbone(x)[:, 0] - y).square().sum() for x, y in stream]).sum() / 10
    params = [p for p in backbone.parameters() if p.requires_grad]
    expected = torch.nn.utils.get_total_norm(torch.autograd.grad(loss, params))
    assert norm == pytest.approx(float(expected), rel=1e-4)
    assert all(p.grad is None for p in params)


def test_the_learning_rate_warms_up(problem: Problem) -> None:
    backbone, stream, _ = learning.prepare(problem, 0)
    optimizer = Rule("AdamW", {"lr": 0.3}).build(backbone)
    steps = learning.observations(backbone, optimizer, stream, Gaussian, warmup=2)
    rates = [optimizer.param_groups[0]["lr"] for _ in steps]
    assert rates == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(("steps", "every", "at"), [(5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4]), (1, 3, [0, 1])])
def test_a_trace_has_both_ends(steps: int, every: int, at: list[int]) -> None:
    taken: list[int] = []
    points = learning.trace((taken.append(step) for step in range(steps)), lambda: {"taken": len(taken)}, every)
    assert [(point["step"], point["taken"]) for point in points] == [(step, step) for step in at]


def test_evaluations_do_not_depend_on_their_order(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, _, test = learning.prepare(problem, 0)
    _, _, raw = learning.load(problem.task, problem.source, 10, 6, 0, 4)
    monkeypatch.setattr(grng_figure1, "CHUNK", 4)
    sorted_by_length = grng_figure1.by_length(backbone, raw)
    assert [len(label) for _, label in sorted_by_length] == [4, 2]
    found = grng_figure1.pearson(backbone, sorted_by_length)
    assert found == pytest.approx(grng_figure1.pearson(backbone, test), abs=1e-4)
    assert sum(len(label) for _, label in grng_figure1.by_length(backbone, raw, 3)) == 3


@pytest.mark.slow
def test_the_experiment(generated_glue: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BATCH": 4, "FILTER_BATCH": 2, "EVALUATIONS": 2, "PROBE": 8}.items():
        monkeypatch.setattr(grng_figure1, name, value)
    command = ["--glue", str(generated_glue), "--backbone", str(tiny_bert), "--samples", "12", "--test-samples", "8"]
    command += ["--seeds", "2", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    grng_figure1.main(command)
    assert (tmp_path / "out.png").stat().st_size > 5000

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    record: dict[str, Any] = json.loads((tmp_path / "out.json").read_text(), parse_constant=refuse)
    results = record["results"]
    assert set(results) == set(grng_figure1.rules(12))
    assert record["best_adamw"].startswith("adamw")
    for line in results.values():
        assert line["batch_size"] == (2 if line["optimizer"] in grng_figure1.FILTERS else 4)
        for run in line["runs"]:
            assert (run["samples"][0], run["samples"][-1]) == (0, 12)
            norms = run["gradient_norm"]
            assert run["average_gradient_norm"][-1] == pytest.approx(sum(norms) / len(norms))
            # before the first step all are where the seed has put them
            assert norms[0] == pytest.approx(results["ring"]["runs"][line["runs"].index(run)]["gradient_norm"][0])
    monkeypatch.setattr(learning, "prepare", None)  # all is kept: nothing is run again
    grng_figure1.main(command)
    assert json.loads((tmp_path / "out.json").read_text())["results"] == results
