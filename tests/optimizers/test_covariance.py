"""Each covariance is the dense filter with P restricted to what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from filtune.optimizers import EKF, Categorical, Gaussian, LoKO
from torch import Tensor, nn
from torch.func import jacrev

from tests.optimizers.models import (
    COVARIANCES,
    FEATURES,
    convnet,
    covariance_of,
    drive,
    labels,
    linear,
    mlp,
    relative,
    rounding,
    values,
    variances,
)
from tests.optimizers.reference import DenseFilter, flat, kept, ones_complement, outputs_of

PROMISE = 1e-10
STEPS = 3
EVERYTHING = 90
"""A rank at which low-rank loses nothing."""


@dataclass(frozen=True)
class Case:
    """A model, what is observed of it, and the filter's options."""

    observed: str
    m: int
    B: int
    noise: str = "ema-2"
    q: float = 0.0
    rho: float = 0.0
    p0_init: str = "uniform"


CASES = [
    Case("values", 1, 1),
    Case("values", 3, 2, noise="ema-1", q=0.02),
    Case("values", 2, 3, noise="identity", rho=0.7),
    Case("probabilities", 2, 1, noise="ema-1", rho=0.5),
    Case("probabilities", 4, 3),
    Case("probabilities", 5, 2, q=0.02, rho=2.0),
    Case("logits", 2, 2, q=0.02),
    Case("logits", 3, 1, rho=0.3, p0_init="constant"),
]


def step_both(case: Case, model: nn.Module, optimizer: EKF | LoKO, dense: DenseFilter, x: Tensor, y: Tensor) -> None:
    """One step of the optimizer and of its reference."""
    if case.observed == "values":
        dense.observe_values(model, x, y)
    elif case.observed == "probabilities":
        dense.observe_probabilities(model, x, y, ones_complement(case.m))
    else:
        dense.observe_logits(model, x, y, scale=2.0 if case.m == 2 else 1.0)
    drive(optimizer, model, Gaussian if case.observed == "values" else Categorical, [(x, y)])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_equals_the_dense_filter_restricted_to_what_it_keeps(covariance: str, case: Case) -> None:
    model = (convnet if case.B == 2 else mlp)(case.m)
    observation = "logits" if case.observed == "logits" else "probabilities"
    options = {"noise": case.noise, "process_noise": case.q, "rho": case.rho, "p0_init": case.p0_init}
    optimizer = EKF(
        model.parameters(),
        **covariance_of(covariance, EVERYTHING),
        p0=0.5,
        observation=observation,
        dtype="float64",
        **options,
    )
    d = {"probabilities": case.m - 1, "logits": 1 if case.m == 2 else case.m, "values": case.m}[case.observed]
    noise = "constant" if case.noise == "identity" else case.noise
    restriction = kept(model, "full" if covariance in ("low_rank", "buffered") else covariance)
    P, R = torch.diag(variances(optimizer)), torch.eye(d, dtype=torch.float64)
    dense = DenseFilter(flat(model), P, R, noise=noise, blocks=restriction, q=case.q, rho=case.rho)
    for x, y in (values if case.observed == "values" else labels)(STEPS, case.B, case.m):
        step_both(case, model, optimizer, dense, x, y)
        assert relative(flat(model), dense.theta) <= PROMISE
        assert relative(variances(optimizer), dense.p) <= PROMISE
    assert torch.finfo(torch.float64).eps * dense.condition < PROMISE / 100
    if covariance == "full":
        assert relative(optimizer.filter["P0"][0], dense.P) <= PROMISE


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
        stream, likelihood = (values, Gaussian) if observed == "values" else (labels, Categorical)
        drive(optimizer.attach(model), model, likelihood, stream(5, 2, 3))
        results.append((flat(model), optimizer.filter["p"], optimizer.filter["R"]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("covariance", ["full", "block_per_tensor", "block_per_neuron"])
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
    assert bool((p <= 64 * 8 * eps * prior.max()).all())
