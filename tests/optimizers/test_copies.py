"""A copied or unpickled optimizer goes on as its original; hooks leave with their optimizer, and run once."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from filtune.optimizers import FirstOrder
from filtune.optimizers.base import unhooked_step
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from filtune import optimizers
from tests.optimizers.rules import NATURAL, PUBLIC, RULES, Scaled, take_steps

WAYS: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


def values(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", RULES)
def test_a_copy_goes_on_as_its_original(name: str, way: str) -> None:
    """Bit for bit, copied together with the model; a natural gradient watches the copied model by itself."""
    model = Scaled()
    optimizer = RULES[name](model.parameters())
    if name in NATURAL:
        optimizer.attach(model)
    take_steps(optimizer, model, 3)
    twin, second = WAYS[way]((model, optimizer))
    take_steps(optimizer, model, 10, seed=1)
    take_steps(second, twin, 10, seed=1)
    assert torch.equal(values(model), values(twin))
    assert second.settings() == optimizer.settings()
    assert second.recent() == optimizer.recent() is not None


@pytest.mark.filterwarnings("ignore")
def test_a_copy_keeps_the_attributes_of_a_class_of_ones_own() -> None:
    class Own(optimizers.LoKO):
        def __init__(self, params: Any) -> None:
            super().__init__(params)
            self.note = [1, 2]

    model = Scaled()
    twin = copy.deepcopy(Own(model.parameters()))
    assert twin.note == [1, 2]


def test_a_copy_after_a_schedule_was_put_on_it() -> None:
    model = Scaled()
    optimizer = optimizers.AdamW(model.parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    twin, second = copy.deepcopy((model, optimizer))
    take_steps(second, twin, 1)
    assert not torch.equal(values(model), values(twin))


def hooks(model: nn.Module) -> int:
    """Hooks on all modules."""
    # torch has no public way to list them
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*NATURAL, "LoKO", "Filtune"])
def test_hooks_are_one_set_and_go_with_the_optimizer(name: str) -> None:
    model = Scaled()
    optimizer = RULES[name](model.parameters())
    for _ in range(5):
        optimizer.attach(model)
    one_set = hooks(model)
    assert one_set == 2
    take_steps(optimizer, model, 2)
    other = RULES[name](model.parameters()).attach(model)
    assert hooks(model) == 2 * one_set
    del other
    gc.collect()
    assert hooks(model) == one_set
    twin = model
    for _ in range(3):  # a copied model has hooks that report to nobody; the next attach removes them
        twin = copy.deepcopy(twin)
        kept = RULES[name](twin.parameters()).attach(twin)
        assert hooks(twin) == one_set
    del kept, optimizer
    gc.collect()
    assert hooks(twin) == hooks(model) == 0
    model(torch.randn(1, 5))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("name", PUBLIC)
def test_step_hooks_run_once_whatever_the_process_has_done(name: str, used_before: bool) -> None:
    if used_before:
        for rule in (torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
            param = nn.Parameter(torch.ones(1))
            param.grad = torch.ones(1)
            rule([param], lr=0.1).step()
    model, calls = Scaled(), list[str]()
    optimizer = PUBLIC[name](model.parameters()).attach(model)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    everywhere = register_optimizer_step_post_hook(lambda *_: calls.append("any"))
    try:
        take_steps(optimizer, model, 1)
    finally:
        everywhere.remove()
    assert sorted(calls) == ["after", "any", "before"]


def test_a_rule_of_ones_own_is_hooked_once_too() -> None:
    class Own(FirstOrder, torch.optim.RMSprop):  # type: ignore[misc]
        pass

    param = nn.Parameter(torch.ones(1))
    param.grad = torch.ones(1)
    torch.optim.RMSprop([param]).step()
    model, calls = Scaled(), list[str]()
    optimizer = Own(model.parameters())
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    take_steps(optimizer, model, 2)
    assert calls == ["after", "after"]


def test_a_step_without_hooks_is_left_as_it_is() -> None:
    def step() -> int:
        return 3

    assert unhooked_step(step)() == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Scaled()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        unhooked_step(optimizer.step)()
