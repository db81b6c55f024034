"""The experiments of the papers run anywhere on a few samples, and what they are built of is right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.papers import (
    bounds,
    common,
    grng_figures,
    learning,
    loko_figure5,
    loko_figure6,
    loko_figure7,
    loko_table5,
    structure,
)
from benchmarks.papers.weights import WEIGHTS, initialise

exponents = st.floats(-3, 3)


@given(boundary=exponents, good=exponents, bad=exponents, ratio=st.floats(1.01, 3))
def test_bisection_ends_next_to_the_boundary(boundary: float, good: float, bad: float, ratio: float) -> None:
    up = bad > good
    asked = []

    def holds(value: float) -> bool:
        asked.append(value)
        return (math.log10(value) < boundary) == up

    if (good < boundary) != up or (bad < boundary) == up or good == bad:
        return
    found = bounds.bisect(holds, 10**good, 10**bad, ratio)
    assert holds(found) or found == 10**good
    # beyond it by the ratio, and the rounding of the last root, it does not hold
    assert not holds(found * (ratio * (1 + 1e-9)) ** (1 if up else -1))
    assert len(asked) <= 3 + max(0, math.log2(max(1e-9, abs(bad - good) / math.log10(ratio))))


def test_bracket_goes_step_by_step() -> None:
    assert bounds.bracket(lambda p0: p0 < 50, 0.1, 10, 4) == (pytest.approx(10), pytest.approx(100))
    assert bounds.bracket(lambda p0: p0 > 0.02, 0.1, 0.1, 4) == (0.1, pytest.approx(0.01))
    assert bounds.bracket(lambda p0: True, 0.1, 10, 4) is None


@given(correct=st.lists(st.booleans(), min_size=1, max_size=30), needed=st.integers(1, 30))
def test_an_answer_is_given_as_soon_as_it_is_sure(correct: list[bool], needed: int) -> None:
    looked = []

    def watched() -> Iterator[bool]:
        for hit in correct:
            looked.append(hit)
            yield hit

    assert bounds.reaches(watched(), len(correct), needed) == (sum(correct) >= needed)
    unsure = looked[:-1]
    assert sum(unsure) < needed
    assert sum(unsure) + len(correct) - len(unsure) >= needed or not unsure


@st.composite
def partitions(draw: st.DrawFn) -> torch.Tensor:
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5).filter(lambda sizes: max(sizes) > 1))
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def covariance(n: int, seed: int) -> torch.Tensor:
    A = torch.randn(n, 2 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return A @ A.mT


@given(blocks=partitions(), seed=st.integers(0, 99))
def test_measures_know_the_extremes(blocks: torch.Tensor, seed: int) -> None:
    n, even = len(blocks), structure.even(blocks)
    ones, P = torch.ones(n, n, dtype=torch.float64), covariance(n, seed)
    assert structure.outside(ones, blocks) == pytest.approx(even["outside"], abs=1e-12)
    assert structure.concentration(ones, blocks) == pytest.approx(1, rel=1e-12)
    block_diagonal = P * (blocks.unsqueeze(0) == blocks.unsqueeze(1))
    assert structure.outside(block_diagonal, blocks) == 0
    assert structure.concentration(block_diagonal, blocks) == pytest.approx(even["most_concentration"], rel=1e-12)
    assert structure.outside(torch.diag(P.diagonal())) == 0
    assert structure.outside(P) >= structure.outside(P, blocks) >= 0


@given(blocks=partitions(), seed=st.integers(0, 99))
def test_measures_depend_neither_on_order_nor_on_units(blocks: torch.Tensor, seed: int) -> None:
    P = covariance(len(blocks), seed)
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
    expected = structure.measures(P, {"blocks": blocks})
    permuted = structure.measures(P[order][:, order], {"blocks": blocks[order]})
    scale = torch.linspace(0.1, 3, len(blocks), dtype=torch.float64)
    rescaled = structure.measures(scale.unsqueeze(1) * P * scale, {"blocks": blocks})
    for name, value in expected.items():
        assert permuted[name] == pytest.approx(value, rel=1e-9, abs=1e-12)
        if "correlation" in name:
            assert rescaled[name] == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_blocks_are_those_of_the_filters() -> None:
    layer = nn.Linear(3, 2)
    shapes = [param.shape for param in layer.parameters()]
    assert structure.labels(shapes, "tensor").tolist() == [0] * 6 + [1] * 2
    assert structure.labels(shapes, "neuron").tolist() == [0] * 3 + [1] * 3 + [2, 3]


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_start_as_named(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 200)
    initialise(layer, name)
    variance = 2 / (400 + 200) if name.startswith("xavier") else 2 / 400
    # n = 80,000 draws: the relative deviation of a sample's variance is sqrt((kurtosis - 1) / n), 0.005 for normal
    assert float(layer.weight.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / 80_000))
    assert float(layer.weight.abs().max() / math.sqrt(variance)) == pytest.approx(
        math.sqrt(3) if name.endswith("uniform") else 4.5, rel=0.001 if name.endswith("uniform") else 0.15
    )
    assert not layer.bias.any()


def test_the_dense_prior_is_dense_and_positive_definite() -> None:
    torch.manual_seed(0)
    P = loko_figure5.dense_prior(200, 0.1)
    assert torch.allclose(P.diagonal(), torch.full((200,), 0.1, dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(P).min()) >= 0.05 * (1 - 1e-12)
    # half the cosine of two random directions in 8 dimensions, of variance 1/8; 200 rows are far more than 8
    assert structure.measures(P, {})["rms_correlation"] == pytest.approx(0.5 / math.sqrt(8), rel=0.05)


def test_results_are_kept(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"online": 1.5}

    for seed in (0, 0, 1):
        assert common.keep(tmp_path, {"seed": seed}, compute) == {"online": 1.5}
    assert len(calls) == 2


IMAGES = ["--data", "digits", "--samples", "8", "--test-samples", "8"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer settings than the experiments have, so that the tests are quick."""
    monkeypatch.setattr(loko_table5, "GRID", (0.02, 0.2))
    monkeypatch.setattr(loko_figure6, "P0", (0.1, 1.0))
    monkeypatch.setattr(loko_figure6, "DECADES", 2)
    monkeypatch.setattr(loko_figure5, "MEASURED", 4)
    monkeypatch.setattr(loko_figure5, "RATES", (1e-3,))
    monkeypatch.setattr(loko_figure5, "SHOWN", (0, 1))
    monkeypatch.setattr(grng_figures, "SIGMA0", (0.1, 0.3))
    monkeypatch.setattr(grng_figures, "BETA", (0.9, 0.96))


def finished(output: Path) -> dict[str, Any]:
    """The JSON of an experiment, which has its plot, its environment and no number that JSON does not know."""
    assert output.with_suffix(".png").stat().st_size > 5000

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    record = json.loads(output.with_suffix(".json").read_text(), parse_constant=refuse)
    assert {"versions", "commit", "threads", "date"} <= set(record["environment"])
    assert any(name.startswith("adamw") for name in record["results"])
    assert all(len(line["online_accuracy"]["seeds"]) == record["seeds"] for line in record["results"].values())
    return record


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "experiment",
    [loko_table5, *(pytest.param(each, marks=pytest.mark.slow) for each in (loko_figure5, loko_figure6, loko_figure7))],
)
def test_experiments_on_images(experiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*IMAGES, "--seeds", "1", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    experiment.main(command)
    record = finished(tmp_path / "out")
    if experiment is loko_table5:
        assert set(record["own_p0"]) == set(loko_table5.NOISES) == set(record["own_p0_results"])
    if experiment is loko_figure6:
        assert {prior: set(starts) for prior, starts in record["bounds"].items()} == {
            prior: set(WEIGHTS) for prior in loko_figure6.PRIORS
        }
    if experiment is loko_figure5:
        assert record["measures"]["diagonal prior"]["correlation_outside_diagonal"]["mean"][0] == 0
    monkeypatch.setattr(learning, "learn", None)  # all is kept: nothing is run again
    experiment.main(command)
    assert finished(tmp_path / "out")["results"] == record["results"]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("experiment", "more"), [(grng_figures, []), (loko_figure7, ["--task", "sst2"])])
def test_experiments_on_texts(
    experiment: Any, more: list[str], generated_glue: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    source = ["--glue", str(generated_glue), "--backbone", str(tiny_bert), "--samples", "4"]
    experiment.main([*source, *more, "--seeds", "2", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "o")])
    assert finished(tmp_path / "o")["task"] == "sst2"


def test_a_wrong_number_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        loko_figure7.main(["--seeds", "0"])
    assert "--seeds: must be at least 1" in capsys.readouterr().err
