"""AdamW, AdaGrad and SGD are torch's own, to the bit, driven by a closure that is called once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from filtune.optimizers import SGD, AdaGrad, AdamW, Categorical, FirstOrder, Gaussian
from filtune.optimizers.likelihoods.base import Observation
from torch import Tensor, nn

from tests.optimizers.models import labels, mlp, values

STEPS = 6


@dataclass(frozen=True)
class Case:
    """One of our rules, torch's, and the arguments of both."""

    ours: type[FirstOrder]
    torchs: type[torch.optim.Optimizer]
    options: dict[str, Any]
    groups: list[dict[str, Any]] = field(default_factory=lambda: [{}, {}])

    def __str__(self) -> str:
        return "-".join([self.ours.__name__, *map(str, self.options.values()), *map(str, self.groups)])


CASES = [
    Case(AdamW, torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    Case(AdamW, torch.optim.AdamW, {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 1e-4}),
    Case(AdamW, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-4}, [{"lr": 0.1}, {"weight_decay": 0.5}]),
    Case(AdaGrad, torch.optim.Adagrad, {"lr": 1e-2}),
    Case(AdaGrad, torch.optim.Adagrad, {"lr": 1e-2, "lr_decay": 0.1, "weight_decay": 0.1}, [{"lr": 0.1}, {}]),
    Case(SGD, torch.optim.SGD, {"lr": 1e-1}),
    Case(SGD, torch.optim.SGD, {"lr": 1e-1, "momentum": 0.9, "nesterov": True}, [{"lr": 0.01}, {"weight_decay": 0.1}]),
]


def grouped(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two layers as two groups, each with arguments of its own."""
    return [{"params": layer.parameters(), **own} for layer, own in zip((model[0], model[2]), groups, strict=True)]


def same(a: nn.Module, b: nn.Module) -> None:
    """Parameters equal to the bit."""
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(("kind", "B"), [("labels", 1), ("values", 3)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_torchs_own_loop_to_the_bit(case: Case, kind: str, B: int) -> None:
    model, other = mlp(3), mlp(3)
    optimizer = case.ours(grouped(model, case.groups), **case.options)
    torchs = case.torchs(grouped(other, case.groups), **case.options)
    for x, y in labels(STEPS, B, 3) if kind == "labels" else values(STEPS, B, 3):
        prediction, calls = optimizer.attach(model), []

        def closure(x: Tensor = x, y: Tensor = y, calls: list[int] = calls) -> Observation:
            calls.append(1)
            return (Categorical if kind == "labels" else Gaussian)(model(x)).observe(y)

        before = model(x).detach()
        prediction = optimizer.step(closure)
        assert len(calls) == 1
        assert torch.equal(prediction.outputs, before)

        torchs.zero_grad()
        out = other(x)
        loss = nn.functional.cross_entropy(out, y) if kind == "labels" else 0.5 * (out - y).square().sum(-1).mean()
        loss.backward()
        torchs.step()
        same(model, other)
        norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in other.parameters()]))
        assert torch.equal(optimizer.stats["grad_norm"], norm)


def test_defaults_are_the_papers_where_it_states_them() -> None:
    params = list(mlp(3).parameters())
    assert AdamW(params).defaults["weight_decay"] == 1e-4
    assert AdaGrad(params).defaults["lr"] == 1e-3
    assert AdaGrad(params).defaults["weight_decay"] == 0


@pytest.mark.parametrize("rule", [AdamW, AdaGrad, SGD])
def test_a_schedule_of_the_learning_rate_works(rule: Callable[..., FirstOrder]) -> None:
    torchs = {AdamW: torch.optim.AdamW, AdaGrad: torch.optim.Adagrad, SGD: torch.optim.SGD}[rule]
    model, other = mlp(3), mlp(3)
    pair = (rule(model.parameters(), lr=0.1, weight_decay=0.0), torchs(other.parameters(), lr=0.1, weight_decay=0.0))
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda k: max(0.0, 1 - k / 4)) for o in pair]
    for k, (x, y) in enumerate(labels(STEPS, 1, 3)):
        assert pair[0].param_groups[0]["lr"] == pytest.approx(0.1 * max(0.0, 1 - k / 4))
        frozen = [p.clone() for p in model.parameters()]
        pair[0].step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        if k >= 4:
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), frozen, strict=True))
        pair[1].zero_grad()
        nn.functional.cross_entropy(other(x), y).backward()
        pair[1].step()
        same(model, other)
        for schedule in schedules:
            schedule.step()


@pytest.mark.parametrize("rule", [AdamW, AdaGrad, SGD])
def test_the_closure_has_gradients_even_where_the_caller_has_none(rule: Callable[..., FirstOrder]) -> None:
    model = mlp(3)
    before, (x, y) = model[2].bias.detach().clone(), labels(1, 1, 3)[0]
    with torch.no_grad():
        rule(model.parameters()).step(lambda: Categorical(model(x)).observe(y))
    assert not torch.equal(model[2].bias, before)


@pytest.mark.parametrize("rule", [AdamW, AdaGrad, SGD])
def test_steps_that_met_a_non_finite_gradient_are_counted(rule: Callable[..., FirstOrder]) -> None:
    model = mlp(3)
    optimizer = rule(model.parameters())
    for k, bad in enumerate([False, False, True]):
        x = torch.full((1, 5), float("nan") if bad else 1.0, dtype=torch.float64)
        optimizer.step(lambda x=x: Categorical(model(x)).observe(torch.tensor([0])))
        assert int(optimizer.stats["nonfinite_steps"]) == int(k == 2)
