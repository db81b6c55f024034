"""The posterior mode is found whatever the prior: by more Newton steps where it takes more, and stats say how many."""

from __future__ import annotations

import math

import pytest
import torch
from filtune.optimizers import Bernoulli, Categorical, Filtune, Poisson
from filtune.optimizers.kalman import posterior_mode
from filtune.optimizers.kalman.posterior_mode import PosteriorModeUpdate
from filtune.optimizers.likelihoods.base import Observation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizers.models import drive, labels, mlp

EPS = torch.finfo(torch.float64).eps


def observed(kind: type, z: Tensor, generator: torch.Generator) -> Observation:
    """Outputs with a target at random."""
    if kind is Categorical:
        return Categorical(z).observe(torch.randint(z.shape[1], (len(z),), generator=generator))
    if kind is Bernoulli:
        return Bernoulli(z).observe(torch.randint(2, z.shape, generator=generator).double())
    return Poisson(z.clamp(-8, 8)).observe(torch.randint(20, z.shape, generator=generator))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([Categorical, Bernoulli, Poisson]),
    m=st.integers(2, 6),
    B=st.integers(1, 3),
    size=st.floats(0, 3000),
    power=st.floats(-2, 8),
    seed=st.integers(0, 10**6),
)
def test_the_mode_is_found_for_every_prior(kind: type, m: int, B: int, size: float, power: float, seed: int) -> None:
    r"""lambda = e(A lambda): the gradient of the concave log posterior, in float64.

    lambda solves it but for rounding: A lambda has errors of rows * eps * |A||lambda|, through which e changes by at
    most as much, for the second derivative of a softmax or a sigmoid is below one; a Poisson's is its rate.
    """
    generator = torch.Generator().manual_seed(seed)
    z = size * torch.randn(B, m, generator=generator, dtype=torch.float64).clamp(-1, 1)
    observation = observed(kind, z, generator)
    innovation = observation.natural()
    rows = innovation.residual.numel()
    Q = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64)).Q
    A = 10**power * (Q * torch.rand(rows, generator=generator, dtype=torch.float64)) @ Q.T
    A = 0.5 * (A + A.T)
    update = PosteriorModeUpdate(observation, innovation)
    dual = update.solve(A).gain.v
    assert dual is not None
    e, L = update._at(A @ dual)
    curvature = max(1.0, float(L.square().sum(1).max()))
    rounding = 10 * rows * EPS * float(A.abs().sum(1).max()) * float(dual.abs().max()) * curvature
    scale = max(1.0, float(innovation.residual.abs().max()))
    assert float((e - dual).abs().max()) <= 1e-11 * scale + rounding
    assert update.iterations < posterior_mode.ITERATIONS


def test_a_wide_prior_needs_more_steps_than_twelve_and_gets_them() -> None:
    """One wrong sample, logits 30 apart, A = 1e4: the mode is the root of a scalar equation, found by bisection."""
    z, A = torch.tensor([[30.0, 0.0]], dtype=torch.float64), torch.tensor([[1e4]], dtype=torch.float64)
    observation = Categorical(z).observe(torch.tensor([1]))
    update = PosteriorModeUpdate(observation, observation.natural())
    dual = update.solve(A).gain.v
    assert dual is not None
    # with u the residual of the difference of the logits along (1, -1)/sqrt(2): eta = A lambda, |lambda| = sqrt(2) p0
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        logit = 30.0 - 2**0.5 * 1e4 * 2**0.5 * middle
        low, high = (middle, high) if 1 / (1 + math.exp(min(-logit, 700.0))) > middle else (low, middle)
    assert float(dual.abs()) == pytest.approx(2**0.5 * low, rel=1e-9)
    assert float(update.residual) <= 1e-11


@pytest.mark.parametrize("variance", [1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("wrong", [30.0, 300.0, 3000.0])
@pytest.mark.parametrize("kind", [Categorical, Bernoulli])
def test_logits_wrong_by_hundreds_take_tens_of_steps(
    kind: type, wrong: float, variance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three samples, each wrong by as much: the gradient at what is found is zero but for rounding (see above)."""
    z = wrong * torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.5], [-1.0, -1.0, 1.0]], dtype=torch.float64)
    target = torch.tensor([2, 0, 1]) if kind is Categorical else (z < 0).double()
    observation = kind(z).observe(target)
    innovation = observation.natural()
    rows = innovation.residual.numel()
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(rows, rows, generator=generator, dtype=torch.float64)
    A = variance * half @ half.T / rows
    update = PosteriorModeUpdate(observation, innovation)
    update.solve(A)
    assert update.iterations <= 60
    assert float(update.residual) <= 1e-11 + 10 * rows * EPS * float(A.abs().sum(1).max())
    if (wrong, variance) == (3000.0, 1e4):  # the steps that are guaranteed alone do not get there
        monkeypatch.setattr(posterior_mode, "DOUBLINGS", 0)
        damped = PosteriorModeUpdate(observation, innovation)
        damped.solve(A)
        assert damped.iterations == posterior_mode.ITERATIONS
        assert float(damped.residual) > 0.1


def test_stats_tell_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stream = mlp(4), labels(3, 2, 4)
    optimizer = Filtune(model.parameters(), p0=1e4)
    drive(optimizer, model, Categorical, stream[:1])
    assert float(optimizer.stats["newton_residual"]) <= 1e-9
    assert int(optimizer.stats["newton_iterations"]) >= 1
    assert optimizer.diagnose() is None
    monkeypatch.setattr(posterior_mode, "ITERATIONS", 1)
    drive(optimizer, model, Categorical, stream[1:2])
    assert int(optimizer.stats["newton_iterations"]) == 1
    assert float(optimizer.stats["newton_residual"]) > 1e-6
    assert "was not found in 1 Newton steps" in (optimizer.diagnose() or "")
