"""Whole steps as graphs, on an emulated device that records: they are the steps without, and nothing else moves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical
from filtune.optimizers.fixed_steps import fixed_steps
from filtune.optimizers.step_graphs import StepGraphs
from torch import Tensor, nn

from tests.emulated_device import DEVICE, recording
from tests.optimizers.device_rules import ALL
from tests.optimizers.models import labels, mlp, relative

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
            with fixed_steps():
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


REPLAYED = {"sophia": 12, "ngd": 12, "ring": 12, "reng": 12}
"""Steps of those that record only some."""

WAITING = ("loko, noise ema_innovation", "loko, rank_tolerance", "low_rank", "lofi")
"""Optimizers with eigenvalues at every step."""


@pytest.mark.parametrize("name", ALL)
def test_replayed_steps_are_those_without_graphs(name: str) -> None:
    """Outputs, predictions, parameters, state and scores are the same bit for bit, over shapes that alternate."""
    data = [batch for pair in zip(stream(10, 1), stream(10, 2, seed=2), strict=True) for batch in pair]
    (plain, own), (graphed, other) = (start(ALL[name]) for _ in range(2))
    graphs = StepGraphs(graphed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = train(plain, own, data), train(graphed, other, data, graphs)
    for one, two in zip(expected, found, strict=True):
        assert relative(two.cpu(), one.cpu()) <= EPS**0.5
    assert relative(flat(other), flat(own)) <= EPS**0.5
    waits = name.startswith(WAITING)
    assert (graphs.replays == 0) == waits, graphs.replays
    assert plain.check_divergence() == graphed.check_divergence()
    one, two = plain.recent(), graphed.recent()
    assert (one is None) == (two is None)
    if one is not None:
        assert [x for x in two if x is not None] == pytest.approx([x for x in one if x is not None], rel=EPS**0.5)
    figures = {key: float(value) for key, value in plain.stats.items()}
    assert {key: float(value) for key, value in graphed.stats.items()} == pytest.approx(figures, rel=1e-6, abs=1e-12)
