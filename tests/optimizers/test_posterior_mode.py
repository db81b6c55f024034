"""The update at the mode: Newton's method in the dual finds it, and it is what theory says of it."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import EKF, Categorical, Gaussian
from filtune.optimizers.kalman import posterior_mode
from filtune.optimizers.kalman.posterior_mode import PosteriorModeUpdate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, hessian

from tests.optimizers.models import covariance_of, drive, labels, linear, mlp, relative, rounding, values, variances
from tests.optimizers.reference import flat, one_hot, outputs_of

Problem = tuple[PosteriorModeUpdate, Tensor, Categorical, Tensor]


def problem(m: int, B: int, size: float, spread: float, seed: int) -> Problem:
    """Logits of this size, labels at random, and A = HPH' with eigenvalues up to ``spread``."""
    generator = torch.Generator().manual_seed(seed)
    z = size * torch.randn(B, m, generator=generator, dtype=torch.float64).clamp(-1, 1)
    observation = Categorical(z).observe(torch.randint(m, (B,), generator=generator))
    innovation = observation.natural()
    rows = innovation.residual.numel()
    Q = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64)).Q
    A = spread * (Q * torch.rand(rows, generator=generator, dtype=torch.float64)) @ Q.T
    return PosteriorModeUpdate(observation, innovation), A, Categorical(z), observation.target


PROBLEMS = {"m": st.integers(2, 6), "B": st.integers(1, 4), "seed": st.integers(0, 10**6)}


@settings(max_examples=60)
@given(**PROBLEMS, size=st.floats(0, 5), spread=st.floats(0, 10))
def test_it_is_the_fixed_point(m: int, B: int, seed: int, size: float, spread: float) -> None:
    """lambda = e(A lambda) to 1e-6 wherever logits are within 5 and their prior variance within 10."""
    it, A, likelihood, target = problem(m, B, size, spread, seed)
    dual = it.solve(A).gain.v
    assert dual is not None
    e = likelihood.at(it.outputs + it._shift(A @ dual)).observe(target).natural().residual.flatten()
    assert float((e - dual).abs().max()) <= 1e-6


def objective(it: PosteriorModeUpdate, A: Tensor, dual: Tensor) -> float:
    """-log p(y | eta) + eta'A^-1 eta / 2 with eta = A lambda."""
    shifted = it.observation.at(it.outputs + it._shift(A @ dual))
    return float(it.samples * shifted.nll() + 0.5 * dual @ A @ dual)


@settings(max_examples=60)
@given(**PROBLEMS, size=st.floats(0, 30), spread=st.floats(0, 1e4))
def test_every_step_descends_whatever_the_prior(m: int, B: int, seed: int, size: float, spread: float) -> None:
    it, A, _, _ = problem(m, B, size, spread, seed)
    before = objective(it, A, torch.zeros(len(A), dtype=torch.float64))
    for iterations in (1, 2, 3, 5, 8, posterior_mode.ITERATIONS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(posterior_mode, "ITERATIONS", iterations)
            dual = it.solve(A).gain.v
        assert dual is not None
        after = objective(it, A, dual)
        # sums of some hundred terms, each within the logits' and eta's own size
        assert after <= before + rounding(300) * (1 + abs(before) + float((A @ dual).abs().max()))
        before = after


@pytest.mark.parametrize(("m", "B"), [(2, 3), (3, 1), (5, 3)])
def test_a_linear_model_goes_to_the_mode_of_its_posterior(m: int, B: int) -> None:
    """Against Newton's method on theta itself, in float64, with the Hessian by autograd; Laplace's covariance too."""
    model, p0 = linear(m), 0.5
    optimizer = EKF(model.parameters(), "full", update="posterior_mode", p0=p0, dtype="float64")
    theta, precision = flat(model), torch.eye(len(flat(model)), dtype=torch.float64) / p0
    for x, y in labels(3, B, m):
        mean, prior, call = theta, precision, outputs_of(model, x)

        def energy(theta: Tensor, mean: Tensor = mean, prior: Tensor = prior, x: Tensor = x, y: Tensor = y) -> Tensor:
            fit = (call(theta).log_softmax(-1) * one_hot(y, m)).sum()  # noqa: B023
            return 0.5 * (theta - mean) @ prior @ (theta - mean) - fit

        for _ in range(15):
            theta = theta - torch.linalg.solve(hessian(energy)(theta), grad(energy)(theta))
        precision = hessian(energy)(theta)
        drive(optimizer, model, Categorical, [(x, y)])
        assert relative(flat(model), theta) <= 1e-9
        assert relative(variances(optimizer), torch.linalg.inv(precision).diagonal()) <= 1e-9


@pytest.mark.parametrize("covariance", ["diagonal", "full", "low_rank", "buffered"])
def test_for_values_it_is_the_kalman_filter(covariance: str) -> None:
    results = []
    for own in ({"noise": "softmax"}, {"update": "posterior_mode"}):
        model = mlp(2)
        optimizer = EKF(model.parameters(), **covariance_of(covariance, 60), **own, p0=0.5, dtype="float64")
        drive(optimizer, model, Gaussian, values(6, 2, 2))
        results.append((flat(model), variances(optimizer)))
    assert relative(results[0][0], results[1][0]) <= 1e-12
    assert relative(results[0][1], results[1][1]) <= 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_certain_prediction_that_is_wrong_is_turned_round_without_overshooting(dtype: str) -> None:
    """Logits 2e4 apart: no step of a likelihood with a prior variance of 1 can be longer than |J'e|."""
    model = linear(2).to(getattr(torch, dtype))
    x, y = torch.ones(1, model.weight.shape[1], dtype=model.weight.dtype), torch.tensor([1])
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1e4, -1e4]))
    before = flat(model)
    optimizer = EKF(model.parameters(), update="posterior_mode", p0=1.0, dtype=dtype)
    drive(optimizer, model, Categorical, [(x, y)])
    change = flat(model) - before
    length = float((2 * (x.square().sum() + 1)).sqrt())
    assert float(change.norm()) == pytest.approx(length, rel=rounding(100, dtype=getattr(torch, dtype)) + 1e-3)
    assert int(optimizer.filter["nonfinite_steps"]) == 0


def test_it_takes_no_rho() -> None:
    with pytest.raises(ValueError, match="update posterior_mode has no option rho"):
        EKF(mlp(3).parameters(), update="posterior_mode", rho=0.1)
