"""Averages of second moments: dense or as rows, the same matrix, the same inverse."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers.distributed import Ranks
from filtune.optimizers.kfac import factors
from filtune.optimizers.kfac.factors import NORM_TOLERANCE, DenseFactor, Factor, LowRankFactor
from filtune.optimizers.kfac.inverses import Cholesky, Eigen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizers.models import relative, rounding

L, K = 2, 12


def samples(refreshes: int, rows: int = 3, seed: int = 0) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(rows, K, generator=generator, dtype=torch.float64) for _ in range(L)] for _ in range(refreshes)
    ]


def fill(factor: Factor, refreshes: list[list[Tensor]]) -> Factor:
    for X in refreshes:
        factor.add(X, torch.tensor([float(len(x)) for x in X], dtype=torch.float64), Ranks())
    return factor


def dense(decay: float) -> DenseFactor:
    return DenseFactor({}, decay, Eigen())


@given(refreshes=st.integers(1, 5), decay=st.sampled_from([0.0, 0.5, 0.9]))
@settings(max_examples=15)
def test_the_average_weighs_by_age_and_sums_to_one(refreshes: int, decay: float) -> None:
    data = samples(refreshes)
    M = fill(dense(decay), data).state["M"]
    weights = [decay ** (refreshes - 1 - i) for i in range(refreshes)]
    for n in range(L):
        expected = sum(w * X[n].mT @ X[n] / 3 for w, X in zip(weights, data, strict=True)) / sum(weights)
        assert relative(M[n], expected) <= rounding(10 * refreshes * 3)


@given(refreshes=st.integers(1, 6), decay=st.sampled_from([0.0, 0.5, 0.9]), factor=st.floats(0.01, 100))
@settings(max_examples=25)
def test_rows_are_the_same_matrix_and_inverse(refreshes: int, decay: float, factor: float) -> None:
    data, V = samples(refreshes), torch.ones(L, 1, K, dtype=torch.float64)
    many, few = fill(dense(decay), data), fill(LowRankFactor({}, decay), data)
    assert relative(few.times(V), many.times(V)) <= rounding(100 * K)
    assert relative(few.trace(), many.trace()) <= rounding(100 * K)
    assert relative(few.spectral_norm(), many.spectral_norm()) <= rounding(100 * K)
    root, c = torch.tensor(0.1, dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    many.prepare(root, c)
    few.prepare(root, c)
    condition = float((many.spectral_norm() / (0.1 * min(1, factor) * c)).max()) + 1
    for lam in (None, factor * root * c):
        assert relative(few.solve(V, lam), many.solve(V, lam)) <= rounding(100 * K, condition=condition**2)


def test_rows_of_old_refreshes_are_dropped_and_the_weights_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "MAX_EARLIER_ROWS", 6)
    data = samples(5)
    few, last = (
        fill(LowRankFactor({}, 0.9), data),
        fill(dense(0.9), data[-3:]),
    )  # two old refreshes of 3 rows, and the new
    V = torch.eye(K, dtype=torch.float64).expand(L, K, K)
    assert few.state["lengths"] == [3, 3, 3]
    assert relative(few.times(V), last.times(V)) <= rounding(100 * K)


def test_layers_may_have_seen_different_numbers_of_positions() -> None:
    short, long = torch.randn(2, K).double(), torch.randn(5, K).double()
    counts = torch.tensor([2.0, 5.0], dtype=torch.float64)
    few, many = LowRankFactor({}, 0.9), dense(0.9)
    for factor in (few, many):
        factor.add([short, long], counts, Ranks())
    V = torch.eye(K, dtype=torch.float64).expand(L, K, K)
    assert relative(few.times(V), many.times(V)) <= rounding(100 * K)


@pytest.mark.parametrize("make", [dense, lambda decay: LowRankFactor({}, decay)], ids=["dense", "low rank"])
def test_what_is_not_finite_is_left_out(make: type) -> None:
    data = samples(2)
    factor = fill(make(0.9), data[:1])
    before = factor.times(torch.eye(K, dtype=torch.float64).expand(L, K, K))
    data[1][1][0, 0] = float("nan")
    fill(factor, data[1:])
    after = factor.times(torch.eye(K, dtype=torch.float64).expand(L, K, K))
    assert after.isfinite().all()
    assert not torch.equal(after[0], before[0])  # the other layer learns


def test_a_norm_is_found_after_a_zero_factor() -> None:
    """As lora_A's Gamma as long as lora_B is zero."""
    factor = DenseFactor({}, 0.0, Cholesky())
    fill(factor, [[torch.zeros(3, K).double()] * L])
    assert torch.equal(factor.spectral_norm(), torch.zeros(L, dtype=torch.float64))
    centred = [torch.randn(30, K).double() for _ in range(L)]
    fill(factor, [[x - x.mean(1, keepdim=True) for x in centred]])
    norm = torch.linalg.eigvalsh(factor.state["M"])[:, -1]
    assert (factor.spectral_norm() > (1 - NORM_TOLERANCE) * norm).all()


def test_the_residual_is_that_of_the_inverse() -> None:
    """|I - (M + lam I)X| in root mean square: zero but for rounding, and s when X is scaled by 1 - s."""
    factor = fill(DenseFactor({}, 0.9, Cholesky()), samples(3))
    factor.prepare(torch.tensor(0.5, dtype=torch.float64), torch.ones(L, dtype=torch.float64))
    assert (factor.residual() <= rounding(100 * K, condition=100)).all()
    factor.state["cholesky"] = factor.state["cholesky"] / 0.9**0.5
    assert torch.allclose(factor.residual(), torch.full((L,), 0.1, dtype=torch.float64), rtol=1e-10)
