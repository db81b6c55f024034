"""What one process of a run refuses, or is asked by a signal, all of its processes do."""

from __future__ import annotations

import json
import signal
import time
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from filtune.lightning_modules import signals
from filtune.lightning_modules.callbacks.stopping import MOST_STEPS, PERIOD, StopRequest, agreed_signal
from filtune.lightning_modules.launch import refused_together
from filtune.lightning_modules.runs import CheckpointError
from filtune.optimizers import LoKO
from filtune.optimizers.distributed import Ranks
from filtune.optimizers.kalman import step_cost
from filtune.optimizers.likelihoods import Categorical
from torch import nn

from tests.optimizers.processes import together


def refuse(rank: int | None) -> str:
    """The error of a block that is refused on a rank."""
    try:
        with refused_together(CheckpointError):
            if rank == Ranks.current().rank:
                raise KeyError("a part is missing")
    except (KeyError, CheckpointError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_all_ranks_refuse_what_one_does() -> None:
    own, others = "KeyError: 'a part is missing'", "CheckpointError: 'a part is missing'"
    assert together(2, refuse, 0) == [own, others]
    assert together(2, refuse, 1) == [others, own]
    assert together(2, refuse, None) == ["", ""]
    assert refuse(0) == own  # alone
    with pytest.raises(ValueError, match="as it is"), refused_together(CheckpointError):
        raise ValueError("as it is")


def first_step(rank: int) -> str:
    """The error of LoKO's first step, where a rank has too little memory."""
    if Ranks.current().rank == rank:
        step_cost.available_memory = lambda _: 1000
    model = nn.Linear(3, 300)
    optimizer = LoKO(model.parameters())
    try:
        optimizer.step(lambda: Categorical(model(torch.ones(1, 3))).observe(torch.tensor([1])))
    except ValueError as error:
        return str(error)
    return ""


def test_the_rank_with_the_least_memory_decides_for_all() -> None:
    first, second = together(2, first_step, 1)
    assert first == second
    assert "rows of the Jacobian" in first
    assert "of 0.0 GiB of memory" in first


def group() -> pl.Trainer:
    """A trainer as far as signals need it."""

    def reduce(numbers: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "max"
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        exchanges.append(time.monotonic())
        return numbers

    exchanges: list[float] = []
    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce, exchanges=exchanges)
    return SimpleNamespace(world_size=dist.get_world_size(), strategy=strategy)  # type: ignore[return-value]


def train(steps: int, seconds: float, rank: int, when: int) -> tuple[list[int], int, int]:
    """Steps after which a stop is known, the number of exchanges, and the signal agreed on after the run.

    Rank 1 is the slower one; the signal comes to a rank in a step.
    """
    trainer, request, known = group(), StopRequest(), []
    request._since = time.monotonic()
    signals.defer(True)
    for step in range(steps):
        time.sleep(seconds * (1 + Ranks.current().rank))
        if (Ranks.current().rank, step) == (rank, when):
            signals.on_signal(signal.SIGTERM, None)
        if request.has_come(trainer):
            known.append(step)
            break
    return known, len(trainer.strategy.exchanges), agreed_signal(trainer)  # type: ignore[attr-defined]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])  # 1 is the slower one
def test_a_signal_to_one_rank_stops_all_after_the_same_step(rank: int) -> None:
    """Within ``PERIOD``; with steps of 20 ms on the slower rank there are few exchanges."""
    first, second = together(2, train, 200, 0.01, rank, 30)
    assert first == second
    (stopped,), exchanges, agreed = first
    assert 30 <= stopped <= 30 + MOST_STEPS
    # each step takes the slower rank 20 ms at least: in PERIOD there are 50 at most, and half as many were it busy
    assert (stopped - 30) * 0.02 <= PERIOD
    assert exchanges <= 1 + (stopped + 1) // 5
    assert agreed == signal.SIGTERM


def test_a_signal_in_the_last_step_is_known_to_all() -> None:
    assert [found[2] for found in together(2, train, 31, 0.0, 1, 30)] == [signal.SIGTERM] * 2


@pytest.mark.slow
def test_what_the_exchanges_cost() -> None:
    """Microseconds a step of two processes: an exchange after each step, and after ``MOST_STEPS``; printed."""
    found = together(2, cost)
    print(json.dumps(found))
    assert all(rare < every / 5 for every, rare in found)


def cost() -> tuple[float, float]:
    """Microseconds a step of an exchange after each of 2,000 steps, and of one when it is time."""
    figures: list[float] = []
    trainer: Any = group()
    for ask in (True, False):
        request = StopRequest()
        request._since = start = time.perf_counter()
        for _ in range(2000):
            request.has_come(trainer, ask=ask)
        figures.append((time.perf_counter() - start) / 2000 * 1e6)
    return figures[0], figures[1]
