"""Every filter is the dense extended Kalman filter with P restricted to what its covariance keeps, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from filtune.optimizers import EKF, LoKO, RKalman
from filtune.optimizers.kalman.filter import KalmanOptimizer
from torch import nn

from tests.optimizers.models import (
    COVARIANCES,
    convnet,
    coordinates,
    covariance_of,
    drive,
    likelihood_of,
    mlp,
    relative,
    stream_of,
    variances,
)
from tests.optimizers.reference import DenseFilter, flat, kept

STEPS = 3
EVERYTHING = 130
"""A rank at which low-rank loses nothing."""


@dataclass(frozen=True)
class Case:
    """What is observed of a model, and the filter's options."""

    observed: str
    m: int
    B: int
    noise: str = "ema-2"
    q: float = 0.0
    rho: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join(map(str, (self.observed, self.m, self.B, self.noise, self.q, self.rho, *self.options.values())))


CONSTANT = {"p0_init": "constant", "beta": 0.9}
CASES = [
    Case("values", 1, 1),
    Case("values", 3, 2, "ema-1", q=0.02),
    Case("values", 2, 3, "identity", rho=0.7),
    Case("values", 2, 2, "ema-1", options={"r0": 30.0, "p0": 5.0}),
    Case("values", 3, 4, "ema-2", q=0.01, rho=3.0, options={"r0": 0.5}),
    Case("probabilities", 2, 1, "ema-1", rho=0.5),
    Case("probabilities", 2, 2, "ema-1", options=CONSTANT),
    Case("probabilities", 4, 3),
    Case("probabilities", 4, 1, options={"r0": 0.1}),
    Case("probabilities", 4, 4, "ema-1", options=CONSTANT),
    Case("probabilities", 5, 2, q=0.02, rho=2.0),
    Case("probabilities", 3, 2, options={"vectorize": False}),
    Case("probabilities", 5, 2, options={"chunk_size": 3}),
    Case("logits", 2, 2, q=0.02),
    Case("logits", 2, 4, "ema-1", options=CONSTANT),
    Case("logits", 3, 1, rho=0.3, options={"p0_init": "constant"}),
    Case("logits", 3, 2, "ema-1", q=0.01, rho=3.0, options={"r0": 0.5}),
    # softmax noise in its stable form is R = diag(y) - yy' of the probabilities, and the identity for values
    Case("softmax", 2, 1, "softmax"),
    Case("softmax", 3, 2, "softmax"),
    Case("softmax", 5, 3, "softmax"),
    Case("softmax", 10, 1, "softmax"),
    Case("softmax", 4, 2, "softmax", rho=1e-4),
    Case("softmax", 4, 1, "softmax", rho=0.5),
    Case("softmax", 2, 2, "softmax", rho=20.0),
    Case("values", 3, 1, "softmax"),
    Case("values", 3, 3, "softmax", rho=0.5),
]


def build(rule: str, params: Iterable, case: Case) -> KalmanOptimizer:
    """LoKO, R-Kalman where the noise is regularised, or EKF with the covariance of that name."""
    options = {"noise": case.noise, "p0": 0.5, "process_noise": case.q, "dtype": "float64", **case.options}
    if case.observed == "logits":
        options["observation"] = "logits"
    if case.rho:
        options["rho"] = case.rho
    if rule != "LoKO":
        return EKF(params, **covariance_of(rule, EVERYTHING), **options)
    if not case.rho:
        return LoKO(params, **options)
    given = {} if case.noise in ("softmax", "identity") else {"beta": 0.95}
    return RKalman(params, **{**({} if case.noise == "softmax" else {"r0": 1.0}), **given, **options})


def compare(rule: str, case: Case, model: nn.Module, optimizer: KalmanOptimizer) -> None:
    """Run both over the same stream and compare theta and p after every step."""
    promise = 1e-12 if case.observed == "softmax" else 1e-10
    mask = kept(model, {"LoKO": "diagonal", "low_rank": "full", "buffered": "full"}.get(rule, rule))
    R = case.options.get("r0", 1.0) * torch.eye(coordinates(case.observed, case.m), dtype=torch.float64)
    noise: Any = "constant" if case.noise in ("identity", "softmax") else case.noise
    beta = case.options.get("beta", 0.95)
    dense = DenseFilter(
        flat(model), torch.diag(variances(optimizer)), R, beta, noise, blocks=mask, q=case.q, rho=case.rho
    )
    for x, y in stream_of(case.observed, STEPS, case.B, case.m):
        before = flat(model)
        dense.observe(case.observed, model, x, y)
        drive(optimizer, model, likelihood_of(case.observed), [(x, y)])
        assert not torch.equal(flat(model), before)
        assert relative(flat(model), dense.theta) <= promise
        assert relative(variances(optimizer), dense.p) <= promise
    # the promise leaves the reference itself room to be right: u * cond(S) is far below it
    assert torch.finfo(torch.float64).eps * dense.condition < promise / 10
    if rule == "full":
        assert relative(optimizer.filter["P0"][0], dense.P) <= promise


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("rule", ["LoKO", *COVARIANCES])
def test_equals_the_dense_filter(rule: str, case: Case) -> None:
    model = (convnet if case.B == 2 else mlp)(case.m)
    compare(rule, case, model, build(rule, model.parameters(), case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_so_does_one_that_is_attached(case: Case) -> None:
    model = (mlp if case.B == 2 else convnet)(case.m)
    compare("LoKO", case, model, build("LoKO", model.parameters(), case).attach(model))


@pytest.mark.parametrize("p0_init", ["constant", "uniform"])
def test_groups_have_their_own_variance(p0_init: str) -> None:
    model = mlp(3)
    groups = [
        {"params": [model[0].weight], "p0": 2.0},
        {"params": [model[0].bias], "p0_init": "constant", "p0": 0.01},
        {"params": model[2].parameters()},
    ]
    case = Case("probabilities", 3, 2, options={"p0": 0.3, "p0_init": p0_init})
    optimizer = build("LoKO", groups, case)
    first, second, third = variances(optimizer).split([35, 7, 24])
    assert (second == 0.01).all()
    for part, p0 in ((first, 2.0), (third, 0.3)):
        assert (part == p0).all() if p0_init == "constant" else 0.5 * p0 < float(part.max()) <= p0
    compare("LoKO", case, model, optimizer)


def test_uniform_variance_fills_its_interval_and_is_never_zero() -> None:
    p = variances(LoKO(nn.Linear(1000, 20).parameters(), p0=0.2))
    # U(0, p0) has mean p0 / 2 and variance p0^2 / 12: five standard deviations of the mean of n draws
    assert abs(float(p.mean()) - 0.1) < 5 * 0.2 / (12 * len(p)) ** 0.5
    assert float(p.min()) > 0
    assert float(p.max()) <= 0.2
