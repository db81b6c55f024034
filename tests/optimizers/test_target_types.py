"""Classes as targets: any integer type is an index, and what is none is refused in one line that says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import NGD, Filtune, LoKO
from torch import nn

from filtune import SAM, Categorical

RULES: list[tuple[Any, dict[str, Any]]] = [
    (Filtune, {}),
    (Filtune, {"top_k": 1}),
    (LoKO, {}),
    (NGD, {}),
    (SAM, {"lr": 0.1}),
]
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def after_a_step(rule: Any, options: dict[str, Any], target: torch.Tensor, m: int) -> torch.Tensor:
    torch.manual_seed(0)
    model, x = nn.Linear(4, m), torch.randn(2, 4)
    rule(model.parameters(), **options).attach(model).step(lambda: Categorical(model(x)).observe(target))
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_every_integer_type_is_an_index(rule: Any, options: dict[str, Any]) -> None:
    expected = after_a_step(rule, options, torch.tensor([0, 2]), 4)
    assert all(torch.equal(after_a_step(rule, options, torch.tensor([0, 2], dtype=t), 4), expected) for t in INTEGERS)
    of_two = after_a_step(rule, options, torch.tensor([0, 1]), 2)
    assert torch.equal(after_a_step(rule, options, torch.tensor([False, True]), 2), of_two)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            torch.tensor([0.0, 2.0]),
            "indices of classes must be whole numbers, such as torch.int64, got a target of torch.f",
        ),
        (torch.tensor([0j, 1j]), "indices of classes must be whole numbers"),
        (torch.tensor([[1, 0, 0], [0, 0, 1]]), "probabilities of classes must be of floating type"),
        (
            torch.tensor([0, -100]),
            "a target is -100, must be the index of a class, from 0 to below 3; leave samples without",
        ),
        (torch.tensor([7, 0], dtype=torch.uint8), "a target is 7, must be"),
    ],
)
def test_what_is_no_index_is_refused(target: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^Categorical: {message}[^\n]*$"):
        Categorical(torch.zeros(2, 3)).observe(target)


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_probabilities_as_a_target_are_for_rules_that_take_the_likelihood_alone(
    rule: Any, options: dict[str, Any]
) -> None:
    soft = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.1, 0.2, 0.7]])
    if rule in (SAM, NGD):
        assert after_a_step(rule, options, soft, 4).isfinite().all()
    else:
        with pytest.raises(ValueError, match=r"^Categorical: a target of probabilities [^\n]*$"):
            after_a_step(rule, options, soft, 4)
