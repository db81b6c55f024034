"""Covariances against closed forms and one another; against the dense filter in test_dense_filter."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import EKF, Gaussian, LoKO
from torch import Tensor, nn
from torch.func import jacrev

from tests.optimizers.models import (
    FEATURES,
    covariance_of,
    drive,
    likelihood_of,
    linear,
    mlp,
    relative,
    rounding,
    stream_of,
    values,
    variances,
)
from tests.optimizers.reference import flat, outputs_of

EVERYTHING = 90
"""A rank at which low-rank loses nothing."""


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("covariance", ["full", "low_rank", "buffered"])
def test_a_linear_model_under_constant_noise_is_ridge_regression(covariance: str, B: int) -> None:
    """Recursive least squares: the posterior of y = X theta + N(0, r) from the prior N(theta0, p0 I), closed form."""
    model, stream, r, p0 = linear(1), values(12, B, 1), 0.3, 2.0
    optimizer = EKF(
        model.parameters(), **covariance_of(covariance, EVERYTHING), p0=p0, noise="identity", r0=r, dtype="float64"
    )
    X = torch.cat([jacrev(outputs_of(model, x))(flat(model))[:, 0] for x, _ in stream])
    y, n = torch.cat([y for _, y in stream])[:, 0], X.shape[1]
    precision = torch.eye(n, dtype=torch.float64) / p0 + X.T @ X / r
    mean = torch.linalg.solve(precision, flat(model) / p0 + X.T @ y / r)
    drive(optimizer, model, Gaussian, stream)
    # 12 steps of some n + B operations; S is within 1 + p0 |x|^2 / r of the noise, the precision within its condition
    condition = float(torch.linalg.cond(precision)) * float(1 + p0 * X.square().sum(-1).max() / r)
    tolerance = rounding(12 * (n + B), condition=condition)
    assert tolerance < 1e-9
    assert relative(flat(model), mean) <= tolerance
    assert relative(variances(optimizer), torch.linalg.inv(precision).diagonal()) <= tolerance


class Parallel(nn.Module):
    """Two linear maps of the same features, each with outputs of its own, without bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(FEATURES, 1, bias=False) for _ in range(2)).double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=1)


@pytest.mark.parametrize("covariance", ["block_per_tensor", "block_per_neuron"])
def test_blocks_are_exact_where_the_problem_falls_apart(covariance: str) -> None:
    """Outputs with tensors, or rows of a weight, of their own: nothing outside of the blocks is ever correlated."""
    results = []
    for chosen in (covariance, "full", "diagonal"):
        model = Parallel() if covariance == "block_per_tensor" else nn.Linear(FEATURES, 3, bias=False).double()
        for p in model.parameters():
            nn.init.constant_(p, 0.1)
        optimizer = EKF(model.parameters(), chosen, noise="identity", dtype="float64")
        drive(optimizer, model, Gaussian, values(8, 2, 2 if covariance == "block_per_tensor" else 3))
        results.append((flat(model), variances(optimizer)))
    own, full, diagonal = results
    assert relative(own[0], full[0]) <= 1e-12
    assert relative(own[1], full[1]) <= 1e-12
    assert relative(diagonal[0], full[0]) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("observed", ["probabilities", "logits", "values"])
def test_diagonal_is_loko_to_the_bit(observed: str, dtype: str) -> None:
    options = {"p0": 0.3, "p0_init": "constant", "beta": 0.9, "r0": 0.5, "process_noise": 1e-3, "dtype": dtype}
    if observed == "logits":
        options["observation"] = "logits"
    results = []
    for rule, own in ((LoKO, {}), (EKF, {"covariance": "diagonal"})):
        model = mlp(3)
        optimizer = rule(model.parameters(), **options, **own)
        drive(optimizer.attach(model), model, likelihood_of(observed), stream_of(observed, 5, 2, 3))
        results.append((flat(model), optimizer.filter["p"], optimizer.filter["R"]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("covariance", ["diagonal", "full", "block_per_tensor", "block_per_neuron"])
def test_below_the_resolution_of_floating_point_blocks_keep_a_positive_diagonal(
    covariance: str, dtype: torch.dtype
) -> None:
    """64 scalars with p h^2 / R above 1e25, in many of which p - p^2 h^2 / S rounds to zero or less."""
    model = nn.Linear(1, 64, bias=False).to(dtype)
    name = str(dtype).split(".")[1]
    optimizer = EKF(model.parameters(), covariance, p0=2.0, p0_init="uniform", noise="ema-1", r0=1e-30, dtype=name)
    x, prior = torch.ones(1, 1, dtype=dtype), variances(optimizer)
    drive(optimizer, model, Gaussian, [(x, model(x).detach())])
    p, eps = variances(optimizer), torch.finfo(dtype).eps
    assert int(optimizer.filter["clamped"]) > 0
    assert bool((p >= eps * prior).all())
    # 1 - p h^2 / S takes fewer than 8 roundings; in a block there are 64 of them
    assert bool((p <= (8 * eps * prior if covariance == "diagonal" else 64 * 8 * eps * prior.max())).all())
    assert int(optimizer.filter["nonfinite_steps"]) == 0
