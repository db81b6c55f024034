"""An option that a group of parameters cannot have is refused, and not ignored."""

from __future__ import annotations

from typing import Any

import pytest
from filtune.optimizers import NGD, SAM, Filtune, LoKO
from torch import nn

from .rules import RULES

WHOLE = [
    (Filtune, "adapter_scale", 2.0, "p0, p0_init"),
    (Filtune, "top_k", 3, "p0, p0_init"),
    (LoKO, "covariance", "full", "p0, p0_init"),
    (NGD, "skip", 3, "lr"),
    (SAM, "base", "adamw", "lr"),
]


@pytest.mark.parametrize(("rule", "option", "value", "known"), WHOLE)
def test_an_option_of_the_whole_optimizer_is_refused_in_a_group(rule: Any, option: str, value: Any, known: str) -> None:
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], option: value}, {"params": [model.bias]}]
    needed = {"lr": 0.1} if rule is SAM else {}
    with pytest.raises(ValueError, match=rf"^{rule.__name__}: {option} is an option of the whole [^\n]*{known}[^\n]*$"):
        rule(groups, **needed)


@pytest.mark.parametrize("name", RULES)
def test_the_groups_of_an_optimizer_make_another_and_a_name_is_the_users(name: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = RULES[name]([{"params": [model.weight], "name": "weights"}, {"params": [model.bias]}])
    again = RULES[name]([dict(group) for group in optimizer.param_groups])
    assert [group.get("name") for group in again.param_groups] == ["weights", None]
