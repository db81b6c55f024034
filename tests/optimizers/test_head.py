"""The head whose covariance is reset is the model's own, whatever the order of the parameter groups."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical, Filtune
from filtune.optimizers.layer_hooks import head_parameters
from torch import Tensor, nn


class Adapted(nn.Module):
    """A frozen layer with a low-rank branch, and a head that is named by ``head``; float64."""

    def __init__(self, head: Any = ("classifier",)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = head
        self.classifier = nn.Linear(6, 3).double()  # registered first: the order of the model is no help
        self.base = nn.Linear(5, 6).double().requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(5, 2, bias=False).double(), nn.Linear(2, 6, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, 3)."""
        return self.classifier(torch.tanh(self.base(x) + self.lora_B(self.lora_A(x))))


def groups(model: Adapted) -> list[dict[str, Any]]:
    """The docstring's example: ``{lora_B: {p0: 2.0}}``; the group of a pattern comes after the rest."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in named if "lora_B" not in name]},
        {"params": [p for name, p in named if "lora_B" in name], "p0": 2.0},
    ]


def stretches(optimizer: Filtune, model: nn.Module) -> dict[str, slice]:
    """The columns of the state, by the parameter's name."""
    names, start, found = {id(p): name for name, p in model.named_parameters()}, 0, {}
    for p in optimizer.trained():
        found[names[id(p)]] = slice(start, start + p.numel())
        start += p.numel()
    return found


def learn_until_drift(optimizer: Filtune, model: nn.Module) -> None:
    """Eight samples, and a ninth at which Page's test is about to raise its alarm."""
    generator = torch.Generator().manual_seed(1)
    for k in range(9):
        x, y = torch.randn(1, 5, generator=generator, dtype=torch.float64), torch.tensor([k % 3])
        if k == 8:
            optimizer.filter["armed"] = torch.tensor(True)
            optimizer.filter["page"] = torch.tensor(100.0, dtype=torch.float64)
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
    assert int(optimizer.filter["changes"]) == 1


@pytest.mark.parametrize("copied", [False, True])
def test_the_head_loses_its_information_and_nothing_else_does(copied: bool) -> None:
    model = Adapted()
    optimizer = Filtune(groups(model), head_reset_scale=1.0, dtype="float64").attach(model)
    if copied:
        model, optimizer = copy.deepcopy((model, optimizer))
    learn_until_drift(optimizer, model)
    place = stretches(optimizer, model)
    V, k = optimizer.filter["V"], int(optimizer.filter["filled"])
    before = k - 3  # the last sample has added its rows, after the reset
    for name, columns in place.items():
        is_head = name.startswith("classifier")
        assert bool((V[:before, columns] == 0).all()) == is_head, name
    first = torch.cat([optimizer.filter["precision"][place[name]] for name in ("classifier.weight", "classifier.bias")])
    assert torch.equal(1 / first, optimizer.filter["tail"])


@pytest.mark.parametrize("head", [("classifier",), "module", None])
def test_it_is_found_by_name_by_module_or_as_the_last_layer(head: Any) -> None:
    model = Adapted(head)
    if head == "module":
        model.head = model.classifier
    params = [p for group in groups(model) for p in group["params"]]
    names = {id(p): name for name, p in model.named_parameters()}
    found = [names[id(params[i])] for i in head_parameters(model, params)]
    assert found == (["lora_B.weight"] if head is None else ["classifier.weight", "classifier.bias"])


def test_a_copy_that_an_adapter_trains_in_its_place_counts() -> None:
    model = nn.Module()
    model.head = ("score",)
    model.body = nn.Linear(2, 2)
    model.score = nn.ModuleDict({"original": nn.Linear(2, 2), "trained": nn.Linear(2, 2)})
    params = [*model.score["trained"].parameters(), *model.body.parameters()]
    assert head_parameters(model, params) == [0, 1]


def test_the_state_of_an_earlier_release_gets_variances_for_the_right_head() -> None:
    """Its ``tail`` was that of the last tensors: their mean, 0.3, is what the head's covariance is reset to."""
    model = Adapted()
    optimizer = Filtune(groups(model), head_reset_scale=2.0, dtype="float64").attach(model)
    x = torch.ones(1, 5, dtype=torch.float64)
    optimizer.step(lambda: Categorical(model(x)).observe(torch.tensor([0])))
    saved = optimizer.state_dict()
    saved["state"]["filter"]["tail"] = torch.linspace(0.1, 0.5, 12, dtype=torch.float64)
    optimizer.load_state_dict(saved)
    learn_until_drift(optimizer, model)
    precision, V = optimizer.filter["precision"], optimizer.filter["V"]
    for name, columns in stretches(optimizer, model).items():
        is_head = name.startswith("classifier")
        reset = torch.full_like(precision[columns], 1 / (2.0 * 0.3))
        assert bool(torch.isclose(precision[columns], reset).all()) == is_head, name
        assert bool((V[: int(optimizer.filter["filled"]) - 3, columns] == 0).all()) == is_head, name
