"""A filter whose output layer gains rows has the state of one that has had them, their classes unseen, from the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import EKF, AdaGrad, AdamW, Categorical, Filtune, LoKO, OnlineOptimizer, RKalman, SGD
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from filtune.optimizers.growth import padded

FEATURES, HIDDEN, MOST = 4, 3, 5


class Net(nn.Module):
    """Two layers; the rows of the second are the classes, and start at zero."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body, self.head = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, classes)
        for param in self.body.parameters():
            param.data = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        for param in self.head.parameters():
            param.data = torch.zeros(param.shape, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)))


def grow(model: Net, optimizer: OnlineOptimizer, classes: int) -> None:
    params = [model.head.weight, model.head.bias]
    before = {param: param.shape for param in params}
    for param in params:
        param.grad = None
        param.data = padded(param.data, classes)
    optimizer.grow(before)
    optimizer.attach(model)


def samples(count: int) -> torch.Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run(build: Any, labels: list[int], grows: bool) -> tuple[Net, OnlineOptimizer]:
    """Learn from labels, each at most one more than those before: with a growing head, or with one that has all rows."""
    known = 2
    model = Net(known if grows else MOST)
    optimizer = build(model.parameters()).attach(model)
    for x, label in zip(samples(len(labels)), labels, strict=True):
        if label >= known:
            known = label + 1
            if grows:
                grow(model, optimizer, known)
        optimizer.step(
            lambda x=x, label=label, known=known: Categorical(model(x.unsqueeze(0))[:, :known]).observe(
                torch.tensor([label])
            )
        )
    if grows:
        grow(model, optimizer, MOST)
    return model, optimizer


def assert_equal(found: tuple[Net, OnlineOptimizer], expected: tuple[Net, OnlineOptimizer]) -> None:
    for own, other in zip(found[0].parameters(), expected[0].parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    state, wanted = (dict(each[1].state_dict()["state"]) for each in (found, expected))
    for key, value in wanted.items():
        for name, tensor in value.items():
            if isinstance(tensor, torch.Tensor) and name not in ("recent", "V", "gram"):
                torch.testing.assert_close(state[key][name], tensor, rtol=1e-9, atol=1e-12, msg=name)
    if "filter" in wanted and "V" in wanted["filter"]:  # rows of V are known up to their sign
        for name in ("V",):
            own, other = state["filter"][name], wanted["filter"][name]
            torch.testing.assert_close(own.mT @ own, other.mT @ other, rtol=1e-8, atol=1e-11)


LABELS = [0, 1, 0, 2, 1, 1, 2, 3, 0, 2, 3, 3, 1, 2, 0, 3]


def natural(covariance: Any, **options: Any) -> Any:
    """A filter on the natural parameters, whose noise is not estimated."""
    return lambda params: EKF(params, p0=0.5, covariance=covariance, noise="softmax", dtype="float64", **options)


def filtune(**options: Any) -> Any:
    given = {"p0_init": "constant", "p0": 0.3, "top_k": 0, "dtype": "float64", "rank": 4, "buffer_size": 3, **options}
    return lambda params: Filtune(params, **given)


FILTERS = {
    "full": natural("full"),
    "tensor": natural("block_per_tensor"),
    "neuron": natural("block_per_neuron"),
    "diagonal": natural("diagonal"),
    "process noise": natural("block_per_tensor", process_noise=0.01),
    "low rank": filtune(),
    "lofi": filtune(buffer_size=0, rank=6, rows_per_sample=0),
    "top k": filtune(top_k=1),
    "head reset": filtune(head_reset_scale=1.0),
    "forgetting": filtune(forgetting_factor=0.9, nis_window=4),
}
RULES = {
    "adamw": lambda params: AdamW(params, lr=0.05, weight_decay=0.1),
    "adagrad": lambda params: AdaGrad(params, lr=0.05),
    "sgd": lambda params: SGD(params, lr=0.05, momentum=0.9),
}


@pytest.mark.parametrize("name", [*FILTERS, *RULES])
def test_the_state_is_that_of_a_head_with_all_rows(name: str) -> None:
    build = {**FILTERS, **RULES}[name]
    assert_equal(run(build, LABELS, grows=True), run(build, LABELS, grows=False))
