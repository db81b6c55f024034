"""LoKO is the extended Kalman filter with its covariance restricted to the diagonal, to 1e-10 in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical, Gaussian, LoKO
from torch import nn

from tests.optimizers.models import convnet, drive, labels, mlp, relative, values
from tests.optimizers.reference import DenseFilter, flat, ones_complement

PROMISE = 1e-10
STEPS = 4


@dataclass(frozen=True)
class Case:
    """A model, what is observed of it, and how."""

    build: Callable[[int], nn.Module]
    observed: str
    m: int
    B: int
    noise: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "-".join(map(str, self.options.values()))
        return f"{self.build.__name__}-{self.observed}-m{self.m}-B{self.B}-{self.noise}-{options}"


SEEN = [("probabilities", 2), ("probabilities", 4), ("logits", 2), ("logits", 3), ("values", 1), ("values", 3)]
CASES = [
    Case(build, observed, m, B, noise, {"p0_init": p0_init, "beta": beta})
    for build, (observed, m), B, noise, (p0_init, beta) in product(
        (mlp, convnet), SEEN, (1, 2, 4), ("ema-1", "ema-2"), (("constant", 0.9), ("uniform", 0.95))
    )
] + [
    Case(mlp, "probabilities", 4, 1, "ema-2", {"r0": 0.1}),
    Case(mlp, "values", 2, 2, "ema-1", {"r0": 30.0, "p0": 5.0}),
    Case(convnet, "probabilities", 3, 2, "ema-2", {"vectorize": False}),
    Case(convnet, "probabilities", 5, 2, "ema-2", {"chunk_size": 3}),
]


def pair(case: Case, model: nn.Module, params: Any) -> tuple[LoKO, DenseFilter, int]:
    """LoKO in float64 and its dense reference, from the same variance."""
    observation = case.observed if case.observed != "values" else "probabilities"
    optimizer = LoKO(params, noise=case.noise, observation=observation, dtype="float64", **case.options)
    d = {"probabilities": case.m - 1, "logits": 1 if case.m == 2 else case.m, "values": case.m}[case.observed]
    P = torch.diag(torch.cat([p.flatten() for p in optimizer.variance()]))
    R = case.options.get("r0", 1.0) * torch.eye(d, dtype=torch.float64)
    return optimizer, DenseFilter(flat(model), P, R, case.options.get("beta", 0.95), case.noise), d


def compare(case: Case, model: nn.Module, optimizer: LoKO, dense: DenseFilter) -> None:
    """Run both over the same stream and compare theta and p after every step."""
    stream = (values if case.observed == "values" else labels)(STEPS, case.B, case.m)
    likelihood = Gaussian if case.observed == "values" else Categorical
    basis = ones_complement(case.m)
    for x, y in stream:
        if case.observed == "values":
            dense.observe_values(model, x, y)
        elif case.observed == "probabilities":
            dense.observe_probabilities(model, x, y, basis)
        else:
            dense.observe_logits(model, x, y, scale=2.0 if case.m == 2 else 1.0)
        before = flat(model)
        drive(optimizer, model, likelihood, [(x, y)])
        assert not torch.equal(flat(model), before)
        assert relative(flat(model), dense.theta) <= PROMISE
        assert relative(torch.cat([p.flatten() for p in optimizer.variance()]), dense.p) <= PROMISE
    # the promise leaves the reference itself room to be right: u * cond(S) is far below it
    assert torch.finfo(torch.float64).eps * dense.condition < PROMISE / 100


@pytest.mark.parametrize("attached", [False, True], ids=["explicit", "attached"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_dense_filter(case: Case, attached: bool) -> None:
    model = case.build(case.m)
    optimizer, dense, _ = pair(case, model, model.parameters())
    compare(case, model, optimizer.attach(model) if attached else optimizer, dense)


@pytest.mark.parametrize("p0_init", ["constant", "uniform"])
def test_groups_have_their_own_variance(p0_init: str) -> None:
    model = mlp(3)
    groups = [
        {"params": [model[0].weight], "p0": 2.0},
        {"params": [model[0].bias], "p0_init": "constant", "p0": 0.01},
        {"params": model[2].parameters()},
    ]
    case = Case(mlp, "probabilities", 3, 2, "ema-2", {"p0": 0.3, "p0_init": p0_init})
    optimizer, dense, _ = pair(case, model, groups)
    first, second, third = dense.p.split([35, 7, 24])
    assert (second == 0.01).all()
    for part, p0 in ((first, 2.0), (third, 0.3)):
        assert (part == p0).all() if p0_init == "constant" else 0.5 * p0 < float(part.max()) <= p0
    compare(case, model, optimizer, dense)


def test_uniform_variance_fills_its_interval_and_is_never_zero() -> None:
    model = nn.Linear(1000, 20)
    p = torch.cat([part.flatten() for part in LoKO(model.parameters(), p0=0.2).variance()])
    n = len(p)
    # U(0, p0) has mean p0 / 2 and variance p0^2 / 12: five standard deviations of the mean of n draws
    assert abs(float(p.mean()) - 0.1) < 5 * 0.2 / (12 * n) ** 0.5
    assert float(p.min()) > 0
    assert float(p.max()) <= 0.2
