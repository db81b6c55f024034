"""Learning-rate schedules: warm-up and linear decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.optim.lr_scheduler import LambdaLR


@dataclass
class Schedule:
    """How the learning rate changes over the run.

    Args:
        decay: ``none``, or ``linear`` to zero at the end of the run.
        warmup: Steps over which the learning rate rises linearly from zero, before the decay.
    """

    decay: Literal["none", "linear"] = "none"
    warmup: int = 0

    @property
    def constant(self) -> bool:
        """Whether there is nothing to schedule."""
        return self.decay == "none" and self.warmup == 0

    def build(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LambdaLR:
        """The scheduler over ``total_steps`` steps.

        Raises:
            ValueError: If the optimizer has no learning rate, or the warm-up is negative or outlasts the run.
        """
        if "lr" not in optimizer.param_groups[0]:
            raise ValueError(
                f"model.schedule: {type(optimizer).__name__} has no learning rate; set --model.schedule.decay none "
                "and --model.schedule.warmup 0"
            )
        if not 0 <= self.warmup < total_steps:
            raise ValueError(
                f"model.schedule.warmup: must lie in [0, {total_steps}), the steps of this run; got {self.warmup}"
            )
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))

    def factor(self, step: int, total_steps: int) -> float:
        """Multiplier of the learning rate at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.decay == "none":
            return 1.0
        return max(0.0, (total_steps - step) / (total_steps - self.warmup))
