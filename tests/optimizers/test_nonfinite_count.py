"""The count of non-finite steps goes on when a state is restored, for every optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from filtune.optimizers import Categorical, OnlineOptimizer
from torch import nn

from filtune import optimizers

RULES = sorted(
    name
    for name in optimizers.__all__
    if isinstance(getattr(optimizers, name), type)
    and issubclass(getattr(optimizers, name), OnlineOptimizer)
    and not vars(getattr(optimizers, name)).get("abstract", False)
)
OPTIONS = {"SGD": {"lr": 0.1}}


def step(optimizer: OnlineOptimizer, model: nn.Module, value: float) -> None:
    x = torch.full((1, 3), value)
    optimizer.step(lambda: Categorical(model(x)).observe(torch.tensor([1])))


def build(name: str) -> tuple[OnlineOptimizer, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4))
    optimizer = getattr(optimizers, name)(model.parameters(), **OPTIONS.get(name, {}))
    return optimizer.attach(model), model


@pytest.mark.parametrize("name", RULES)
def test_the_count_goes_on(name: str) -> None:
    optimizer, model = build(name)
    for value in (1.0, float("nan"), 0.5):
        step(optimizer, model, value)
    before = int(optimizer.stats["nonfinite_steps"])
    assert before >= 1
    other, twin = build(name)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for rule, net in ((optimizer, model), (other, twin)):
        step(rule, net, 0.25)
        step(rule, net, float("inf"))
    assert int(other.stats["nonfinite_steps"]) == int(optimizer.stats["nonfinite_steps"]) > before
    copied = copy.deepcopy(other)
    assert int(copied.state_dict().get("nonfinite_steps", before)) >= before


def test_a_state_of_an_earlier_release_has_no_count() -> None:
    optimizer, model = build("AdamW")
    step(optimizer, model, 1.0)
    state = copy.deepcopy(optimizer.state_dict())
    del state["nonfinite_steps"]
    optimizer.load_state_dict(state)
    step(optimizer, model, float("nan"))
    assert int(optimizer.stats["nonfinite_steps"]) == 1
