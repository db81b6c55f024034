"""Warm-up and linear decay."""

from __future__ import annotations

import pytest
import torch
from filtune.lightning_modules import Schedule
from filtune.optimizers import AdamW, LoKO


def rates(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.factor(step, steps) for step in range(steps + 1)]


def test_linear_decay_ends_at_zero() -> None:
    assert rates(Schedule("linear"), 4) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_warmup_rises_to_the_full_rate_and_the_decay_follows() -> None:
    factors = rates(Schedule("linear", warmup=3), 7)
    assert factors == [0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates(Schedule("none", warmup=1), 3) == [0.5, 1.0, 1.0, 1.0]


def test_it_drives_the_learning_rate() -> None:
    optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = Schedule("linear").build(optimizer, 10)
    for _ in range(5):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_filter_has_no_learning_rate() -> None:
    with pytest.raises(ValueError, match="LoKO has no learning rate; set --model.schedule.decay none"):
        Schedule("linear").build(LoKO([torch.nn.Parameter(torch.zeros(1))]), 10)


@pytest.mark.parametrize("warmup", [-1, 10])
def test_a_warmup_must_fit_the_run(warmup: int) -> None:
    with pytest.raises(ValueError, match=r"model.schedule.warmup: must lie in \[0, 10\)"):
        Schedule("none", warmup=warmup).build(AdamW([torch.nn.Parameter(torch.zeros(1))]), 10)
