"""The covariance of the outputs against a dense float64 J P J', and moderated probabilities against Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from exports.uncertainty import OutputCovariance, difference_variance, moderated_probabilities
from optimizers import EKF, Categorical, LoKO
from optimizers.filter import KalmanOptimizer

FILTERS: dict[str, Callable[[Any], KalmanOptimizer]] = {
    "loko": lambda params: LoKO(params, dtype="float64"),
    **{
        name: (lambda params, name=name: EKF(params, covariance=name, dtype="float64"))
        for name in ("full", "tensor", "neuron")
    },
    "low-rank": lambda params: EKF(params, covariance="low-rank", rank=3, dtype="float64"),
}


def dense_covariance(optimizer: KalmanOptimizer) -> Tensor:
    """P (n, n), of the tensors that the filter keeps."""
    kept = optimizer.filter
    if "p" in kept:
        return kept["p"].diag()
    if "V" in kept:
        return torch.linalg.inv(kept["precision"].diag() + kept["V"].mT @ kept["V"])
    names = sorted((name for name in kept if name[0] == "P"), key=lambda name: int(name[1:]))
    return torch.block_diag(*(block for name in names for block in kept[name]))


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("name", FILTERS)
def test_output_covariance(name: str, outputs: int) -> None:
    """To float64 rounding: of sums of n^2 = 1600 products, 1600 u = 2e-13, and of a Cholesky factor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()
    optimizer = FILTERS[name](model.parameters()).attach(model)
    if outputs > 1:
        for _ in range(4):
            x, y = torch.randn(3, 4).double(), torch.randint(0, outputs, (3,))
            optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
    x = torch.randn(6, 4).double()
    found = OutputCovariance(optimizer, model)(model(x))
    params = dict(model.named_parameters())
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)))(params)
    J = torch.cat([jacobian[key].flatten(2) for key in params], dim=2).detach()
    expected = J @ dense_covariance(optimizer) @ J.mT
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("m", [2, 3])
def test_covariance_is_that_of_draws(m: int) -> None:
    """A linear model's outputs are Gaussian with C exactly: the sample covariance of N draws is within 5 of its own
    standard deviations, sqrt((C_ii C_jj + C_ij^2) / N)."""
    torch.manual_seed(0)
    model = nn.Linear(4, m).double()
    optimizer = LoKO(model.parameters(), dtype="float64").attach(model)
    x = torch.randn(1, 4).double()
    (C,) = OutputCovariance(optimizer, model)(model(x))
    N = 20_000
    (weight, bias), (vw, vb) = (p.detach() for p in model.parameters()), optimizer.variance()
    weights, biases = weight + vw.sqrt() * torch.randn(N, m, 4), bias + vb.sqrt() * torch.randn(N, m)
    draws = weights @ x[0] + biases
    spread = ((C.diag()[:, None] * C.diag() + C.square()) / N).sqrt()
    assert ((torch.cov(draws.mT) - C).abs() < 5 * spread).all()


@given(mean=st.floats(-6, 6), deviation=st.floats(0, 5))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_two_classes_against_the_integral(mean: float, deviation: float) -> None:
    r"""MacKay's approximation of \int sigma(z) N(z; mu, s^2) dz is off by 2 * 0.0177 at most.

    It takes sigma(z) for Phi(lambda z), lambda^2 = pi / 8, integrates that exactly, and goes back: each time it is off
    by max |sigma(z) - Phi(lambda z)| = 0.0177 at most, for an average of errors is no larger than the largest.
    """
    z = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    weights = torch.exp(-z.square() / 2)
    exact = (torch.sigmoid(mean + deviation * z) * weights).sum() / weights.sum()
    C = torch.zeros(1, 2, 2, dtype=torch.float64)
    C[0, 1, 1] = deviation**2
    p = moderated_probabilities(torch.tensor([[0.0, mean]], dtype=torch.float64), C)
    assert abs(float(p[0, 1] - exact)) < 2 * 0.0178
    assert float(p.sum()) == pytest.approx(1)


def test_more_classes_against_draws() -> None:
    """The mean-field version is an approximation: for moderate variances it is within 0.05 of 100,000 draws, whose
    own deviation is below 0.5 / sqrt(100000) = 0.0016, and nearer to them than the plain softmax."""
    torch.manual_seed(0)
    mean = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    C = torch.diag(torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64)).unsqueeze(0)
    draws = mean + C[0].diag().sqrt() * torch.randn(100_000, 3, dtype=torch.float64)
    exact = draws.softmax(1).mean(0)
    error = (moderated_probabilities(mean, C)[0] - exact).abs().max()
    assert error < 0.05 + 5 * 0.0016
    assert error < (mean.softmax(1)[0] - exact).abs().max()


@given(st.integers(2, 5), st.integers(0, 100))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_without_variance_it_is_the_softmax(m: int, seed: int) -> None:
    mean = 3 * torch.randn(4, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(moderated_probabilities(mean, torch.zeros(4, m, m).double()), mean.softmax(1))


def test_variance_of_the_difference() -> None:
    C = torch.tensor([[[2.0, 0.5], [0.5, 3.0]]])
    assert difference_variance(C).item() == pytest.approx(2 + 3 - 2 * 0.5)
    kappa = 1 / math.sqrt(1 + math.pi * 4 / 8)
    p = moderated_probabilities(torch.tensor([[0.5, 2.0]]), C)
    assert p[0, 1].item() == pytest.approx(1 / (1 + math.exp(-kappa * 1.5)))
