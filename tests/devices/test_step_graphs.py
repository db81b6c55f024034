"""Whole steps as graphs, on an emulated device that records: they are the steps without, and nothing else moves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical
from filtune.optimizers.fixed_steps import fixed_steps
from filtune.optimizers.kalman import posterior_mode
from filtune.optimizers.step_graphs import StepGraphs
from torch import Tensor, nn

from tests.emulated_device import DEVICE, recording
from tests.optimizers.device_rules import ALL
from tests.optimizers.models import labels, mlp

from .graphs import device_with_graphs

CLASSES = 4
EPS = torch.finfo(torch.float64).eps


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with device_with_graphs():
        yield


def start(make: Any) -> tuple[Any, nn.Module]:
    """An optimizer and its model on the device."""
    model = mlp(CLASSES).to(DEVICE)
    torch.manual_seed(0)
    return make(model.parameters()).attach(model), model


def stream(steps: int, batch: int = 1, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Batches on the device."""
    return [(x.to(DEVICE), y.to(DEVICE)) for x, y in labels(steps, batch, CLASSES, seed)]


def flat(model: nn.Module) -> Tensor:
    """The parameters, flat, on the CPU."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


def train(
    optimizer: Any, model: nn.Module, data: list[tuple[Tensor, Tensor]], graphs: StepGraphs | None = None
) -> list[Tensor]:
    """Take steps; return the outputs before each, and what the optimizer predicts."""
    found = []
    for k, (x, y) in enumerate(data):
        torch.manual_seed(k)

        def observe(x: Tensor, y: Tensor) -> Any:
            return Categorical(model(x)).observe(y)

        if graphs is None:
            with fixed_steps(), optimizer.recordable():
                seen = optimizer.step(lambda x=x, y=y: observe(x, y))
        else:
            seen = graphs.take(observe, (x, y))
        predictive = optimizer.predictive()
        found += [seen.outputs.detach()] + ([] if predictive is None else [predictive])
    return found


def test_a_tape_repeats_what_it_recorded_and_nothing_else() -> None:
    """The step of a graph is not run while it is recorded, reads fixed addresses, and keeps the host's numbers."""
    x, total, rate = torch.ones(3).to(DEVICE), torch.zeros(3).to(DEVICE), torch.tensor(2.0)
    with recording() as tape:
        y = (rate * x).square()
        total.add_(y[1:].sum())
    assert torch.equal(total.cpu(), torch.zeros(3))
    rate.fill_(100.0)
    x.add_(1)
    tape.replay()
    tape.replay()
    assert torch.equal(y.cpu(), torch.full((3,), 16.0))
    assert torch.equal(total.cpu(), torch.full((3,), 64.0))


@pytest.mark.parametrize("what", [lambda x: x.sum().item(), lambda x: x + torch.ones(3).to(DEVICE, non_blocking=True)])
def test_a_tape_refuses_what_a_capture_refuses(what: Any) -> None:
    x = torch.ones(3).to(DEVICE)
    with pytest.raises(RuntimeError, match="capturing"), recording():
        what(x)


DEFAULT = ("adamw", "loko", "filtune-top-1", "ring")
"""Optimizers of the default suite; the others are slow, for each operation on the emulated device is."""

WAITING = ("loko, noise ema_innovation", "loko, rank_tolerance", "low_rank")
"""Optimizers with eigenvalues at every step."""

SMALL = {"rank": 2, "buffer_size": 3}
"""Options of a covariance that is compressed at every other step, so that each number of rows recurs."""


def small(name: str) -> Any:
    """An optimizer of few rows."""
    return partial(ALL[name], **SMALL) if name.startswith("filtune") else ALL[name]


def batches(name: str) -> list[tuple[Tensor, Tensor]]:
    """Batches of alternating sizes; of one where the rows in use tell kinds of steps apart."""
    if name.startswith(("filtune", "lofi")):
        return stream(22 if name.startswith("lofi") else 9)
    return [batch for pair in zip(stream(5), stream(5, 2, seed=2), strict=True) for batch in pair]


@pytest.mark.filterwarnings("ignore:cuda_graphs")
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in ALL])
def test_replayed_steps_are_those_without_graphs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, predictions, parameters, scores and diagnostics are the same bit for bit."""
    monkeypatch.setattr(posterior_mode, "FIXED", 4)
    data = batches(name)
    (plain, own), (graphed, other) = (start(small(name)) for _ in range(2))
    graphs = StepGraphs(graphed)
    expected, found = train(plain, own, data), train(graphed, other, data, graphs)
    assert all(torch.equal(one.cpu(), two.cpu()) for one, two in zip(expected, found, strict=True))
    assert torch.equal(flat(own), flat(other))
    assert (graphs.replays == 0) == name.startswith(WAITING), graphs.replays
    assert plain.check_divergence() == graphed.check_divergence()
    assert plain.recent() == graphed.recent()
    assert {k: float(v) for k, v in plain.stats.items()} == {k: float(v) for k, v in graphed.stats.items()}
