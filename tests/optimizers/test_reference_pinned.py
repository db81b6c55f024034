"""The dense reference is itself right, and LoKO is exact where its diagonal loses nothing: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from filtune.optimizers import Categorical, Gaussian, LoKO
from torch import Tensor, nn
from torch.func import jacrev

from tests.optimizers.models import drive, labels, linear, mlp, relative, rounding, values
from tests.optimizers.reference import DenseFilter, flat, one_hot, ones_complement, outputs_of

CONSTANT_R = math.nextafter(1, 0)
"""The largest beta below 1: R moves by less than 1.2e-16 of |ee'| a step, so it is r0 I to rounding."""


def ridge(X: Tensor, y: Tensor, theta: Tensor, p0: float, r: float) -> tuple[Tensor, Tensor]:
    """Posterior mean and covariance of y = X theta + noise, prior N(theta, p0 I), noise variance r."""
    precision = torch.eye(X.shape[1], dtype=X.dtype) / p0 + X.T @ X / r
    covariance = torch.linalg.inv(precision)
    return covariance @ (theta / p0 + X.T @ y / r), covariance


def design(model: nn.Module, x: Tensor) -> Tensor:
    """The linear model's Jacobian, (B, n)."""
    return jacrev(outputs_of(model, x))(flat(model))[:, 0]


@pytest.mark.parametrize("B", [1, 3])
def test_full_covariance_is_the_ridge_posterior(B: int) -> None:
    model, stream, r, p0 = linear(1), values(12, B, 1), 0.3, 2.0
    prior, n = flat(model), len(flat(model))
    P, R = p0 * torch.eye(n, dtype=torch.float64), torch.tensor([[r]], dtype=torch.float64)
    full = DenseFilter(prior, P, R, noise="constant", diagonal=False)
    for x, y in stream:
        full.observe_values(model, x, y)
    X = torch.cat([design(model, x) for x, _ in stream])
    mean, covariance = ridge(X, torch.cat([y for _, y in stream])[:, 0], prior, p0, r)
    tolerance = rounding(12 * (n + B), condition=float(torch.linalg.cond(covariance)) * full.condition)
    assert tolerance < 1e-8
    assert relative(full.theta, mean) <= tolerance
    assert relative(full.P, covariance) <= tolerance


def test_orthogonal_design_loses_nothing() -> None:
    """One-hot inputs keep the covariance diagonal, so LoKO is Bayesian ridge regression, exactly."""
    model = nn.Linear(4, 1, bias=False).double()
    prior, p0, r = flat(model), 3.0, 0.5
    stream = [
        (torch.eye(4, dtype=torch.float64)[k % 4 :][:1], torch.tensor([[math.sin(k)]], dtype=torch.float64))
        for k in range(20)
    ]
    optimizer = LoKO(
        model.parameters(), p0=p0, p0_init="constant", beta=CONSTANT_R, noise="ema-1", r0=r, dtype="float64"
    )
    drive(optimizer, model, Gaussian, stream)
    mean, covariance = ridge(torch.cat([x for x, _ in stream]), torch.cat([y for _, y in stream])[:, 0], prior, p0, r)
    # 20 steps of fewer than 10 operations each; R's drift adds 1.2e-16 a step; innovation variances within 1 + p0 / r
    tolerance = rounding(2 * 20 * 10, condition=1 + p0 / r)
    assert relative(flat(model), mean) <= tolerance
    assert relative(optimizer.variance()[0][0], covariance.diagonal()) <= tolerance


@pytest.mark.parametrize("noise", ["ema-1", "ema-2"])
def test_scalar_state_is_the_exact_kalman_filter(noise: str) -> None:
    """With one parameter the diagonal is the covariance: 1/p = 1/p0 + sum h^2/R, theta = p (theta0/p0 + sum h y/R)."""
    model = nn.Linear(1, 1, bias=False).double()
    theta0, p0 = flat(model), 0.7
    optimizer = LoKO(model.parameters(), p0=p0, p0_init="constant", beta=0.8, noise=noise, dtype="float64")
    precision, information = 1 / p0, theta0 / p0
    for k in range(30):
        h, y = math.cos(k), math.sin(3 * k)
        x, target = torch.tensor([[[h]], [[y]]], dtype=torch.float64)
        drive(optimizer, model, Gaussian, [(x, target)])
        R = float(optimizer.state["filter"]["R"])
        precision, information = precision + h * h / R, information + h * y / R
    tolerance = rounding(30 * 10, condition=p0 * precision)
    assert tolerance < 1e-10
    assert relative(flat(model), information / precision) <= tolerance
    assert relative(optimizer.variance()[0], torch.tensor(1 / precision, dtype=torch.float64)) <= tolerance


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("noise", ["ema-1", "ema-2"])
def test_raw_probabilities_with_a_pseudo_inverse_agree(m: int, noise: str) -> None:
    """The m probabilities, with S singular along ones, and the m - 1 coordinates move theta and p alike."""
    model = mlp(m)
    optimizer = LoKO(model.parameters(), noise=noise, dtype="float64", p0_init="constant")
    centred = torch.eye(m, dtype=torch.float64) - 1 / m
    raw = DenseFilter(
        flat(model),
        torch.diag(torch.full((len(flat(model)),), 0.2, dtype=torch.float64)),
        centred,
        noise=noise,
        inverse=lambda S: torch.linalg.pinv(S, hermitian=True, rtol=1e-9),
    )
    for x, y in labels(4, 1, m):
        raw.observe_probabilities(model, x, y, torch.eye(m, dtype=torch.float64))
        drive(optimizer, model, Categorical, [(x, y)])
        assert float(torch.linalg.eigvalsh(raw.R)[0].abs()) < 1e-14
        assert relative(flat(model), raw.theta) <= 1e-10
        assert relative(torch.cat([p.flatten() for p in optimizer.variance()]), raw.p) <= 1e-10


@pytest.mark.parametrize("B", [2, 4])
def test_a_batch_is_observed_jointly_not_on_average(B: int) -> None:
    """LoKO equals the joint filter (R block diagonal); a filter of the mean residual is another one."""
    model = mlp(3)
    (x, y), basis = labels(1, B, 3)[0], ones_complement(3)
    optimizer = LoKO(model.parameters(), p0_init="constant", dtype="float64")
    P = torch.diag(torch.cat([p.flatten() for p in optimizer.variance()]))
    joint, averaged = (DenseFilter(flat(model), P, torch.eye(2).double()) for _ in range(2))
    prior = flat(model)

    def h(theta: Tensor) -> Tensor:
        return (outputs_of(model, x)(theta).softmax(-1) @ basis).mean(0, keepdim=True)

    averaged.update((one_hot(y, 3) @ basis).mean(0, keepdim=True) - h(prior), jacrev(h)(prior))
    joint.observe_probabilities(model, x, y, basis)
    drive(optimizer, model, Categorical, [(x, y)])
    moved = joint.theta - prior
    assert relative(flat(model) - prior, moved) <= 1e-10
    assert relative(averaged.theta - prior, moved) > 0.1
