"""Every optimizer on an emulated device: no tensor of the host is mixed in, and the host does not wait."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical, Filtune
from filtune.optimizers.kalman.monitors import page_test
from torch import Tensor, nn

from tests.emulated_device import DEVICE, DeviceTensor, emulated_device, host_waits

from .device_rules import ALL, FILTERS, FIRST, NATURAL, VARIANTS
from .models import labels, mlp

CLASSES = 4
CPU = torch.device("cpu")

WAITS = {
    "loko, noise ema_innovation": ["_linalg_eigh"],
    "loko, rank_tolerance": ["_linalg_eigh", "_local_scalar_dense"],
    "loko, posterior_mode": ["tolist"],  # whether Newton's method has converged, read once a step
}
"""Optimizers that need eigenvalues at every step, and what makes the host wait for them."""

RARE = {"sophia": 10, **dict.fromkeys(NATURAL, 4), **{name: 2 for name in VARIANTS if name.startswith("ring")}}
"""Steps of a period whose first step draws labels or inverts factors, and may wait."""

CONVERGENCE = "posterior_mode.py"
"""Where Newton's method asks whether it has converged, once a step."""

COMPRESSED = [name for name in ALL if name.startswith(("filtune", "low_rank", "lofi"))]
"""Optimizers that compress their covariance where its rows are full, which waits."""


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with emulated_device():
        yield


def start(name: str, device: torch.device) -> tuple[Any, nn.Module]:
    """Return an optimizer and its model on a device."""
    model = mlp(CLASSES).to(device)
    torch.manual_seed(0)
    return ALL[name](model.parameters()).attach(model), model


def take(optimizer: Any, model: nn.Module, stream: list[tuple[Tensor, Tensor]]) -> None:
    """Take a step with each batch, as a run does."""
    device = next(model.parameters()).device
    for x, y in stream:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        optimizer.predictive()


def flat(model: nn.Module) -> Tensor:
    """Return the parameters, flat, on the CPU."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


def test_the_emulation_refuses_what_a_device_refuses() -> None:
    """Operations on tensors of both devices fail; numbers without dimensions, indices and copies do not."""
    x = torch.ones(3).to(DEVICE)
    assert isinstance(x, DeviceTensor)
    assert x.device == DEVICE
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    assert torch.equal((x + torch.tensor(1.0))[torch.tensor([0])].cpu(), torch.tensor([2.0]))


@pytest.mark.parametrize(
    ("waits", "what"),
    [
        (1, lambda x: x.sum().item()),
        (1, lambda x: bool((x > 0).all())),
        (1, lambda x: x.tolist()),
        (1, lambda x: x.cpu()),
        (1, lambda x: x[x > 0]),
        (1, lambda x: x.copy_(torch.ones(3))),
        (1, lambda x: x.new_tensor([1.0])),
        (1, lambda x: torch.tensor([1.0], device=x.device)),
        (1, lambda x: torch.linalg.eigh(torch.outer(x, x))),
        (0, lambda x: torch.ones(3).to(x.device, non_blocking=True)),
        (0, lambda x: torch.where(x > 0, x, 0) + torch.zeros(3, device=x.device)),
        (0, lambda x: torch.linalg.cholesky_ex(torch.outer(x, x))),
        (0, lambda x: x.clone()),
    ],
)
def test_the_emulation_notes_waits(waits: int, what: Any) -> None:
    """What makes the host wait for a CUDA device is noted, and nothing else is."""
    x = torch.ones(3).to(DEVICE)
    with host_waits() as found:
        what(x)
    assert len(found) == waits


@pytest.mark.parametrize("name", list(ALL))
def test_steps_are_those_of_the_cpu(name: str) -> None:
    """The branches for other devices compute the same, half the digits of float64 agree; so do the diagnostics."""
    before, ends = flat(mlp(CLASSES)), []
    for device in (CPU, DEVICE):
        optimizer, model = start(name, device)
        take(optimizer, model, [*labels(2, 1, CLASSES), *labels(2, 3, CLASSES)])
        ends.append(flat(model))
    assert (ends[0] - ends[1]).norm() <= torch.finfo(torch.float64).eps ** 0.5 * (ends[0] - before).norm()

    constants = {"nis_low", "nis_high", "rows", "newton_iterations"}  # numbers that do not depend on values
    assert all(value.device == DEVICE for key, value in optimizer.stats.items() if key not in constants)
    assert optimizer.check_divergence() is None
    optimizer.diagnose()
    optimizer.check_ranks()


@pytest.mark.parametrize("name", [name for name in ALL if name not in COMPRESSED])
def test_steady_steps_do_not_wait(name: str) -> None:
    """After the first steps the host waits only where eigenvalues are needed, labels drawn or factors inverted."""
    optimizer, model = start(name, DEVICE)
    take(optimizer, model, labels(2, 1, CLASSES))
    period = RARE.get(name, 0)
    for step, batch in enumerate(labels(4, 1, CLASSES), 2):
        with host_waits() as found:
            take(optimizer, model, [batch])
        if not (period and step % period == 0):
            assert [wait.partition(":")[0] for wait in found] == WAITS.get(name, []), found


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compression_is_the_only_wait(name: str) -> None:
    """The rows of the covariance are compressed where there are too many of them, and no other step waits."""
    optimizer, model = start(name, DEVICE)
    take(optimizer, model, labels(2, 1, CLASSES))
    state, waits, expected = optimizer.filter, [], []
    full, rows = len(state["V"]), 1 if "top-1" in name else 3
    state["filled"].fill_(full - 2 * rows)  # rows of zeros count as in use
    for batch in labels(4, 1, CLASSES):
        expected.append(int(state["filled"]) + rows > full)
        with host_waits() as found:
            take(optimizer, model, [batch])
        waits.append(any(CONVERGENCE not in wait for wait in found))
    assert waits == expected
    assert any(expected)


@pytest.mark.parametrize("name", [*FIRST, *FILTERS, *NATURAL])
def test_state_travels_to_the_cpu_and_back(name: str) -> None:
    """A state that was on the CPU in between continues as if it had stayed, bit for bit."""
    optimizer, model = start(name, DEVICE)
    take(optimizer, model, labels(2, 1, CLASSES))
    on_cpu = mlp(CLASSES)
    on_cpu.load_state_dict({key: value.cpu() for key, value in model.state_dict().items()})
    between = ALL[name](on_cpu.parameters()).attach(on_cpu)
    between.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    back = copy.deepcopy(on_cpu).to(DEVICE)
    second = ALL[name](back.parameters()).attach(back)
    second.load_state_dict(copy.deepcopy(between.state_dict()))
    for own, trained in ((optimizer, model), (second, back)):
        torch.manual_seed(2)
        take(own, trained, labels(2, 1, CLASSES, seed=3))
    assert torch.equal(flat(model), flat(back))
    take(between, on_cpu, labels(1, 1, CLASSES))


def test_a_trainer_that_moves_the_state_does_not_make_the_host_wait() -> None:
    """Numbers that the host must know come back from the device once, after a trainer has moved all state there."""
    model = mlp(CLASSES).to(DEVICE)
    optimizer = Filtune(model.parameters()).attach(model)
    state = optimizer.filter
    state.update({key: value.to(DEVICE) for key, value in state.items()})
    take(optimizer, model, labels(1, 1, CLASSES))
    with host_waits() as found:
        take(optimizer, model, labels(3, 1, CLASSES))
    assert all(CONVERGENCE in wait for wait in found)
    assert state["filled"].device.type == "cpu"


def test_drift_is_detected_on_the_device() -> None:
    """Page's test runs there as on the CPU: confident predictions that turn out wrong are drift."""
    found = []
    for device in (CPU, DEVICE):
        state = page_test.start(torch.zeros(1).to(device))
        for k in range(120):
            y = torch.tensor([k % 2])
            z = (8.0 * (nn.functional.one_hot(y, 2) - 0.5)) * (1 if k < 100 else -1)
            found_drift = page_test.watch(state, Categorical(z.to(device)).observe(y.to(device)))
            state = found_drift[0]
        found.append(int(state["changes"]))
    assert found[0] == found[1] >= 1
