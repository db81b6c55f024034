"""Scores of the last samples are part of a state, whoever asks in between; the prior of the head is its own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from filtune.optimizers import SGD, AdamW, Categorical, Filtune, LoKO
from torch import nn

from .rules import RULES, Scaled, take_steps


@pytest.mark.parametrize("name", RULES)
def test_asking_in_between_changes_nothing(name: str) -> None:
    """Neither the parameters nor a bit of the scores."""
    found = []
    for asks in (False, True):
        model = Scaled()
        optimizer = RULES[name](model.parameters()).attach(model)
        for step in range(5):
            take_steps(optimizer, model, 1, seed=step)
            if asks:
                optimizer.recent()
                optimizer.diagnose()
        found.append(optimizer.recent())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", RULES)
def test_a_resumed_state_keeps_them(name: str) -> None:
    model = Scaled()
    optimizer = RULES[name](model.parameters()).attach(model)
    take_steps(optimizer, model, 6)
    twin = Scaled()
    resumed = RULES[name](twin.parameters()).attach(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.recent() == optimizer.recent() is not None


def test_the_memory_of_the_caller_may_be_reused() -> None:
    """Targets that are overwritten after the step are scored as they were."""
    torch.manual_seed(0)
    model, scores = nn.Linear(3, 4), []
    for reuse in (False, True):
        optimizer, buffer = SGD(model.parameters(), lr=0.0), torch.zeros(1, dtype=torch.long)
        for k in range(8):
            y = buffer.fill_(k % 4) if reuse else torch.tensor([k % 4])
            optimizer.step(lambda y=y: Categorical(model(torch.ones(1, 3))).observe(y))
        scores.append(optimizer.recent())
    assert scores[0] == scores[1]


def test_a_schedule_adds_keys_to_the_groups_of_a_state() -> None:
    for build in (RULES["SAM adamw"], AdamW):
        model = Scaled()
        optimizer = build(model.parameters())
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        take_steps(optimizer, model, 1)
        build(Scaled().parameters()).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("options", [{"p0_init": "constant"}, {"p0_init": "sensitivity"}])
def test_the_first_variances_of_the_head_are_those_of_the_head(options: dict[str, Any]) -> None:
    """With a prior of its own, and first in the order of the state."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(4, 3), nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.body(x)))

    torch.manual_seed(0)
    model = Net()
    groups = [{"params": [*model.head.parameters()], "p0": 7.0}, {"params": [*model.body.parameters()], "p0": 0.01}]
    optimizer = Filtune(groups, head_reset_scale=1.0, **options).attach(model)
    take_steps(optimizer, model, 1)
    tail = optimizer.filter["tail"]
    assert len(tail) == 15
    if options["p0_init"] == "constant":
        torch.testing.assert_close(tail, torch.full_like(tail, 7.0))  # float32: a precision and back
    assert LoKO(model.parameters()).recent() is None
