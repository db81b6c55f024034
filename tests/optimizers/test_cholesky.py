"""The innovation covariance is factorised with as little jitter as it takes, and failure is reported."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers.kalman.equations import JITTERS, robust_cholesky
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizers.models import rounding


def orthogonal(k: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix, (k, k), float64."""
    return torch.linalg.qr(torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def with_spectrum(values: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    Q = orthogonal(len(values), seed)
    S = Q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ Q.T
    return 0.5 * (S + S.T)


def reproduces(S: Tensor, level: int) -> None:
    """LL' is S with the jitter of that level, L lower triangular, in float64."""
    factor = robust_cholesky(S)
    assert bool(factor.valid)
    assert int(factor.level) == level
    assert factor.inverse.dtype == torch.float64
    assert torch.equal(factor.inverse, factor.inverse.tril())
    scale = float(S.double().diagonal().mean()) or 1.0
    jittered = S.double() + JITTERS[level] * scale * torch.eye(len(S), dtype=torch.float64)
    identity = factor.inverse @ jittered @ factor.inverse.T
    # |L^-1 dS L^-T| <= cond(S) |dS| / |S|, and the factorisation's dS is k + 1 roundings of |S|
    tolerance = rounding(10 * (len(S) + 1), condition=float(torch.linalg.cond(jittered)))
    assert (identity - torch.eye(len(S))).abs().max() <= tolerance


@given(k=st.integers(1, 12), log_scale=st.integers(-30, 30), seed=st.integers(0, 99))
def test_regular_matrices_take_no_jitter(k: int, log_scale: int, seed: int) -> None:
    values = torch.logspace(0, -4, k, dtype=torch.float64) * 10.0**log_scale
    reproduces(with_spectrum(values.tolist(), seed), level=0)


@pytest.mark.parametrize(
    ("values", "level"),
    [
        ([1.0, 1.0, 1.0, -1e-9], 1),
        ([1.0, 1.0, 1.0, -1e-6], 2),
        ([1.0, 1.0, 1.0, -1e-4], 3),
    ],
    ids=str,
)
def test_slightly_indefinite_matrices_climb_the_ladder(values: list[float], level: int) -> None:
    """The mean of the diagonal is .75: the first of 0, 1e-7, 1e-5, 1e-3 times it that outweighs the negative one."""
    reproduces(with_spectrum(values), level)
    reproduces(1e-20 * with_spectrum(values), level)


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e37])
def test_a_rank_one_matrix_in_float32_is_factorised(scale: float) -> None:
    v = torch.tensor([1.0, 2.0, 3.0])
    factor = robust_cholesky(torch.outer(v, v) * scale)
    assert bool(factor.valid)
    assert bool(factor.inverse.isfinite().all())


@given(k=st.integers(2, 12), rank=st.integers(1, 6), seed=st.integers(0, 999))
def test_a_gram_matrix_rounded_to_float32_is_factorised_by_the_second_jitter(k: int, rank: int, seed: int) -> None:
    """Rounding to float32 perturbs by at most u32 * trace = 6e-8 k mean(diag): below 1e-5 mean(diag) up to k = 100."""
    H = torch.randn(k, rank, generator=torch.Generator().manual_seed(seed))
    factor = robust_cholesky(H @ H.T)
    assert bool(factor.valid)
    assert int(factor.level) <= 2


def test_an_asymmetric_matrix_counts_as_its_symmetric_part() -> None:
    S = torch.tensor([[4.0, 1.0, 0.0], [1.0, 5.0, 2.0], [0.0, 2.0, 6.0]]).double()
    skew = torch.triu(torch.ones(3, 3), 1).double()
    assert torch.equal(robust_cholesky(S + skew - skew.T).inverse, robust_cholesky(S).inverse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 4])
def test_zero_says_nothing_and_is_no_failure(k: int, dtype: torch.dtype) -> None:
    reproduces(torch.zeros(k, k, dtype=dtype), level=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("where", [(0, 0), (2, 2), (0, 2)])
def test_non_finite_matrices_are_invalid(bad: float, where: tuple[int, int]) -> None:
    S = torch.eye(3)
    S[where] = S[where[::-1]] = bad
    assert not bool(robust_cholesky(S).valid)


@pytest.mark.parametrize("values", [[1.0, 1.0, -1.0], [-1.0, -2.0, -3.0]])
def test_truly_indefinite_matrices_are_invalid(values: list[float]) -> None:
    factor = robust_cholesky(with_spectrum(values))
    assert not bool(factor.valid)
    assert int(factor.level) == 0
