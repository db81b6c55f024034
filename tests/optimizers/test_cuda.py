"""Every optimizer on a CUDA device: steps, agreement with the CPU, saved state, host synchronisations."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical
from torch import nn

from .device_rules import ALL, FILTERS, FIRST, NATURAL
from .models import convnet, labels, mlp

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")

CUDA = torch.device("cuda")
CLASSES = 4

DRAWS_ON_DEVICE = ("sophia", "ring, fisher mc", "ring, paper_exact", "loko, rank_tolerance")
"""Optimizers that draw from the device's own generator."""

CHEAP = [*FIRST, *FILTERS, *NATURAL]


def train(name: str, model: nn.Module, device: torch.device, steps: int, batch: int = 1) -> tuple[Any, nn.Module]:
    """Return an optimizer and its model after so many steps on the device."""
    own = copy.deepcopy(model).to(device)
    optimizer = ALL[name](own.parameters()).attach(own)
    take(optimizer, own, device, steps, batch)
    return optimizer, own


def take(optimizer: Any, model: nn.Module, device: torch.device, steps: int, batch: int = 1, seed: int = 1) -> None:
    """Take so many steps."""
    for x, y in [(x.to(device), y.to(device)) for x, y in labels(steps, batch, CLASSES, seed)]:
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))


def flat(model: nn.Module) -> torch.Tensor:
    """Return the parameters, flat, on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [name for name in CHEAP if name not in DRAWS_ON_DEVICE])
@pytest.mark.parametrize("build", [mlp, convnet])
def test_float64_steps_are_those_of_the_cpu(build: Callable[[int], nn.Module], name: str, batch: int) -> None:
    """In float64 twenty steps agree to far more digits than a wrong formula or a lost update would leave."""
    model = build(CLASSES)
    (_, here), (_, there) = (train(name, model, torch.device(device), 20, batch) for device in ("cpu", "cuda"))
    moved = (flat(here) - flat(model)).norm()
    assert (flat(here) - flat(there)).norm() <= torch.finfo(torch.float64).eps ** 0.5 * moved


@pytest.mark.parametrize("name", list(ALL))
def test_state_travels_to_the_cpu_and_back(name: str) -> None:
    """A state that was on the CPU in between continues bit for bit."""
    optimizer, model = train(name, mlp(CLASSES), CUDA, 5)
    on_cpu = copy.deepcopy(model).cpu()
    between = ALL[name](on_cpu.parameters()).attach(on_cpu)
    between.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    back = copy.deepcopy(on_cpu).to(CUDA)
    second = ALL[name](back.parameters()).attach(back)
    second.load_state_dict(copy.deepcopy(between.state_dict()))
    for own, trained in ((optimizer, model), (second, back)):
        torch.manual_seed(2)
        take(own, trained, CUDA, 5, seed=3)
    assert torch.equal(flat(model), flat(back))
    take(between, on_cpu, torch.device("cpu"), 1)


@pytest.mark.parametrize("name", [*FIRST, "loko", "loko-logits", "r-kalman", "diagonal", "full", "ring", "reng", "ngd"])
def test_steady_steps_do_not_wait_for_the_device(name: str) -> None:
    """After the first steps, and but for a refresh of Kronecker factors, the host never waits."""
    optimizer, model = train(name, mlp(CLASSES), CUDA, 5)
    stream = [(x.to(CUDA), y.to(CUDA)) for x, y in labels(3, 1, CLASSES)]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for x, y in stream:
                optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
                optimizer.predictive()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in found if "synchronizing CUDA" in str(w.message)]
    if name != "sophia":  # it draws labels, which waits, at every tenth step alone
        assert waits == []


@pytest.mark.parametrize("name", list(ALL))
def test_bfloat16_autocast_learns(name: str) -> None:
    """Under autocast the update stays finite and the parameters keep their type."""
    model = mlp(CLASSES).float().to(CUDA)
    optimizer = ALL[name](model.parameters()).attach(model)
    for x, y in [(x.float().to(CUDA), y.to(CUDA)) for x, y in labels(6, 2, CLASSES)]:

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> Any:
            with torch.autocast("cuda", torch.bfloat16):
                outputs = model(x)
            return Categorical(outputs).observe(y)

        optimizer.step(closure)
    assert flat(model).dtype == torch.float32
    assert flat(model).isfinite().all()
    assert optimizer.check_divergence() is None
