"""A model under torch.compile trains as the same model without it, or is refused in one line when it is attached."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import RENG
from torch import nn

from tests.optimizers.models import mlp
from tests.optimizers.rules import RULES, take_steps


def trained(name: str, compiled: bool, B: int) -> tuple[torch.Tensor, Any]:
    """Parameters after two steps, float64."""
    torch._dynamo.reset()  # there is no public name
    model = mlp(3)
    called = torch.compile(model, backend="aot_eager") if compiled else model
    optimizer = RULES[name](model.parameters()).attach(called)
    with torch.random.fork_rng():
        take_steps(optimizer, lambda x: called(x.double()), 2, B=B)  # type: ignore[arg-type]
    return torch.cat([p.detach().flatten() for p in model.parameters()]), optimizer


OTHERS = [("LoKO", 2), ("Filtune", 1), ("RING", 1), ("Sophia", 2)]


@pytest.mark.filterwarnings("ignore:the batched Jacobian does not work")
@pytest.mark.parametrize(
    ("name", "B"),
    [
        ("Filtune", 2),
        ("RING", 2),
        ("Sophia", 1),
        *(pytest.param(name, B, marks=pytest.mark.slow) for name, B in OTHERS),
    ],
)
def test_it_is_trained_as_without(name: str, B: int) -> None:
    """aot_eager computes what eager does."""
    compiled, plain = (trained(name, way, B)[0] for way in (True, False))
    assert float((compiled - plain).abs().max()) <= 1e-12


def test_a_filter_is_trained_as_without_and_says_that_it_is_slower() -> None:
    with pytest.warns(UserWarning, match="the batched Jacobian does not work for this model, falling back"):
        compiled = trained("LoKO", True, 1)[0]
    assert float((compiled - trained("LoKO", False, 1)[0]).abs().max()) <= 1e-12


@pytest.mark.parametrize("in_place", [False, True])
def test_second_derivatives_are_refused_when_it_is_attached(in_place: bool) -> None:
    model: nn.Module = mlp(3)
    optimizer = RENG(model.parameters())
    if in_place:
        model.compile(backend="aot_eager")
    else:
        model = torch.compile(model, backend="aot_eager")  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^RENG: a model under torch.compile has no second derivative; [^\n]*$"):
        optimizer.attach(model)
    RENG(model.parameters(), grad_penalty=0.0).attach(model)
