"""The spectral norm of a factor, by which RING damps, against eigenvalues in float64; also after it has changed."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers.distributed import Ranks
from filtune.optimizers.kfac.factors import EXACT_COLUMNS, NORM_TOLERANCE, DenseFactor, largest_eigenvalue
from filtune.optimizers.kfac.inverses import Cholesky
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

SPECTRA = {
    "rank one": lambda k: torch.eye(k, dtype=torch.float64)[0],
    "one ahead": lambda k: torch.cat([torch.tensor([1.02]).double(), torch.ones(k - 1).double()]),
    "even": lambda k: torch.linspace(0, 1, k, dtype=torch.float64),
    "geometric": lambda k: 0.9 ** torch.arange(k, dtype=torch.float64),
    "a pair": lambda k: torch.cat([torch.tensor([1.0, 0.999]).double(), torch.full((k - 2,), 0.5).double()]),
    "all alike": lambda k: torch.ones(k, dtype=torch.float64),
    "none": lambda k: torch.zeros(k, dtype=torch.float64),
}


def matrix(values: Tensor, seed: int) -> Tensor:
    """A matrix with these eigenvalues in a random basis, float64."""
    k = len(values)
    draw = torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    Q = torch.linalg.qr(draw).Q
    return (Q * values) @ Q.T


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SPECTRA)),
    k=st.sampled_from([3, EXACT_COLUMNS, EXACT_COLUMNS + 1, 150, 300]),
    seed=st.integers(1, 10**6),
    power=st.integers(-18, 6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_it_is_within_the_stated_tolerance(name: str, k: int, seed: int, power: int, dtype: torch.dtype) -> None:
    """Never above by more than rounding (a Ritz value), and below by the tolerance at most."""
    M = (10.0**power * matrix(SPECTRA[name](k), seed)).to(dtype)
    exact = float(torch.linalg.eigvalsh(M.double())[-1].clamp_min(0))
    found = float(largest_eigenvalue(M.unsqueeze(0)))
    rounding = 10 * k * torch.finfo(dtype).eps
    assert (1 - NORM_TOLERANCE - rounding) * exact <= found <= (1 + rounding) * exact + torch.finfo(dtype).tiny


def test_layers_are_independent() -> None:
    layers = torch.stack(
        [matrix(SPECTRA["even"](100), 1), torch.zeros(100, 100), 1e-9 * matrix(SPECTRA["a pair"](100), 2)]
    )
    found = largest_eigenvalue(layers)
    for own, M in zip(found, layers, strict=True):
        assert float(own) == pytest.approx(float(torch.linalg.eigvalsh(M)[-1].clamp_min(0)), rel=NORM_TOLERANCE)


@pytest.mark.parametrize("k", [20, 200])
def test_another_direction_that_leads_is_found_at_the_next_refresh(k: int) -> None:
    """The inputs change from one direction to an orthogonal one ten times as large: what was leading says nothing."""
    identity = torch.eye(k, dtype=torch.float64)
    state: dict = {}
    factor = DenseFactor(state, 0.9, Cholesky())
    for x in (identity[0], identity[0], identity[0], 10 * identity[1], 10 * identity[1]):
        factor.add([x.unsqueeze(0)], torch.ones(1, dtype=torch.float64), Ranks())
        exact = float(torch.linalg.eigvalsh(state["M"][0])[-1])
        assert float(factor.spectral_norm()) == pytest.approx(exact, rel=1e-9)
