"""What cannot be a baseline is refused in one line: names, arguments, packages, and states that no checkpoint holds."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from filtune.optimizers import TorchOptimizer, torch_classes

from tests.optimizers.test_torch_optimizer import Net, learn


class Idle(torch.optim.SGD):
    """Takes no gradient."""

    def step(self, closure: Any = None) -> None:
        pass


class Queued(torch.optim.SGD):
    """Keeps what a checkpoint cannot hold."""

    def step(self, closure: Any = None) -> None:
        closure()
        for p in self.param_groups[0]["params"]:
            self.state[p]["queue"] = deque([1])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no class path": ({"name": "NAdam"}, "name must be a class path such as torch.optim.NAdam.*; got 'NAdam'"),
    "no text": ({"name": 3}, "name must be a class path .*; got 3"),
    "another module": ({"name": "os.system"}, "os.system is not of torch.optim, pytorch_optimizer, ivon, and nothing"),
    "a module below": ({"name": "torch.optim.swa_utils.SWALR"}, "swa_utils.SWALR is not of torch.optim"),
    "a misspelt class": (
        {"name": "torch.optim.Nadam"},
        "torch.optim has no class Nadam; did you mean torch.optim.NAdam",
    ),
    "no optimizer": ({"name": "torch.optim.lr_scheduler"}, "is not a subclass of torch.optim.Optimizer"),
    "the base class": ({"name": "torch.optim.Optimizer"}, "is not a subclass of torch.optim.Optimizer"),
    "an unknown argument": ({"arguments": {"beta": 1}}, "torch.optim.NAdam has no argument 'beta'; did you mean betas"),
    "the list of arguments": ({"arguments": {"x": 1}}, "has no argument 'x'; it has lr, betas, eps, weight_decay"),
    "the parameters": ({"arguments": {"params": 1}}, "has no argument 'params'"),
    "no mapping": ({"arguments": [1]}, r"arguments must be a mapping such as {lr: 1e-3}; got \[1\]"),
    "text for a number": ({"arguments": {"lr": "fast"}}, "arguments.lr must be a number; got 'fast'"),
    "a truth value for a number": ({"arguments": {"lr": True}}, "arguments.lr must be a number; got True"),
    "a number for a truth value": ({"arguments": {"decoupled_weight_decay": 1}}, "must be true or false; got 1"),
    "not a number": ({"arguments": {"lr": float("nan")}}, "arguments.lr must be finite; got nan"),
    "one of two": ({"arguments": {"betas": [0.9]}}, r"arguments.betas must be a list of 2 numbers; got \[0.9\]"),
    "what the class refuses": (
        {"arguments": {"eps": 1e-8, "lr": -1.0}},
        "arguments.lr: -1.0: torch.optim.NAdam: Invalid learning rate",
    ),
    "a pair that the class refuses": ({"arguments": {"betas": [0.9, 2.0]}}, r"arguments.betas: \(0.9, 2.0\): torch"),
    "a negative rate": ({"fallback_lr": -1.0}, r"fallback_lr must be zero or positive, and at most 1e\+30; got -1.0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_one_line(case: str) -> None:
    given, said = REFUSED[case]
    with pytest.raises(ValueError, match=f"^TorchOptimizer: .*{said}") as refused:
        TorchOptimizer(Net().parameters(), **given)
    assert "\n" not in str(refused.value)


PACKAGED: dict[str, tuple[dict[str, Any], str]] = {
    "swallowed by **kwargs": ({"name": "pytorch_optimizer.SOAP", "arguments": {"learning_rate": 1}}, "has no argument"),
    "what it needs": ({"name": "ivon.IVON", "arguments": {"lr": 0.1}}, "IVON needs ess; set --optimizer.arguments.ess"),
    "another optimizer": (
        {"name": "pytorch_optimizer.Lookahead"},
        "is built from optimizer, not from parameters alone",
    ),
    "a function": ({"name": "pytorch_optimizer.load_optimizer"}, "is not a subclass of torch.optim.Optimizer"),
    "half a step": (
        {"name": "pytorch_optimizer.SOAP", "arguments": {"precondition_frequency": 2.5}},
        "arguments.precondition_frequency must be a whole number; got 2.5",
    ),
    "a wrong value": (
        {"name": "pytorch_optimizer.SOAP", "arguments": {"lr": 1e-3, "weight_decay": -1.0}},
        "arguments.weight_decay: -1.0: pytorch_optimizer.SOAP: weight_decay must be non-negative",
    ),
}


@pytest.mark.parametrize("case", PACKAGED)
def test_what_is_wrong_with_a_class_of_a_package(case: str) -> None:
    given, said = PACKAGED[case]
    pytest.importorskip(given["name"].partition(".")[0])
    with pytest.raises(ValueError, match=f"^TorchOptimizer: .*{said}"):
        TorchOptimizer(Net().parameters(), **given)


def test_an_option_of_a_group_is_checked_as_an_argument_is() -> None:
    model = Net()
    for option, said in (
        ({"lr": "fast"}, "lr of a group must be a number"),
        ({"betas": 1}, "betas of a group must be"),
    ):
        with pytest.raises(ValueError, match=f"^TorchOptimizer: {said}"):
            TorchOptimizer([{"params": model.conv.parameters(), **option}, {"params": model.head.parameters()}])


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    with pytest.raises(
        ValueError, match=r"needs pytorch_optimizer, which is not installed: pip install 'filtune\[base"
    ):
        TorchOptimizer(Net().parameters(), "pytorch_optimizer.SOAP")


def test_a_class_of_ones_own_is_imported_once_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its errors in a step, and a state that no checkpoint holds, are reported in one line."""
    monkeypatch.setattr(torch_classes, "_allowed", set())
    path = f"{__name__}.Queued"
    with pytest.raises(ValueError, match=f"unless you name it yourself: .* --own_class {path}"):
        TorchOptimizer(Net().parameters(), path)
    torch_classes.allow_rules([path, f"{__name__}.Idle"])
    model = Net()
    with pytest.raises(ValueError, match="Idle did not evaluate its closure"):
        learn(TorchOptimizer(model.parameters(), f"{__name__}.Idle", {"lr": 0.1}), model, range(1))
    with pytest.raises(ValueError, match=r"Queued keeps queue \(deque\) in its state, which a checkpoint cannot hold"):
        learn(TorchOptimizer(model.parameters(), path, {"lr": 0.1}), model, range(1))
    with pytest.raises(ValueError, match="SparseAdam fails in its step .*dense gradients.*; take another class"):
        learn(TorchOptimizer(model.parameters(), "torch.optim.SparseAdam"), model, range(1))
