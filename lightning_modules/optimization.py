"""Additions of a run to its optimizer: parameter groups by name, a learning-rate schedule, and weight averaging."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from .checkpoints import compare_names


def group_parameters(model: nn.Module, options: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups, one for each pattern and one for the rest.

    Args:
        model: The model.
        options: Options of each group by a regular expression searched in the parameters' names; the first
            pattern that matches a name takes it.

    Raises:
        ValueError: If nothing is trainable, a pattern is malformed, or one matches no parameter.
    """
    named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    if not named:
        raise ValueError("model.backbone: no parameter is trainable with this adapter")
    groups: dict[str, list[nn.Parameter]] = {pattern: [] for pattern in options}
    rest: list[nn.Parameter] = []
    for name, param in named:
        groups.get(_first_match(name, options), rest).append(param)
    empty = [pattern for pattern, params in groups.items() if not params]
    if empty:
        raise ValueError(
            f"model.param_groups: {empty[0]!r} matches no trainable parameter; names end like {named[0][0]!r}"
        )
    grouped: list[dict[str, Any]] = [{"params": params, **options[key]} for key, params in groups.items()]
    return ([{"params": rest}] if rest else []) + grouped


def _first_match(name: str, options: dict[str, Any]) -> str:
    try:
        return next((pattern for pattern in options if re.search(pattern, name)), "")
    except re.error as error:
        raise ValueError(f"model.param_groups: not a regular expression: {error}") from error


@dataclass
class Schedule:
    """Learning-rate schedule: linear warm-up, then constant or linear decay.

    It is torch's :class:`~torch.optim.lr_scheduler.LambdaLR` of the closed form :meth:`factor`, so that the rate of a
    step follows from its number alone, however often the run was resumed. Torch's ``LinearLR`` twice in a
    ``SequentialLR`` multiplies the rate of the step before, whose rounding errors add up (to 1e-13 of the rate after
    10,000 steps), and its state is another than that of the checkpoints of earlier releases.

    Args:
        decay: ``linear`` decreases the learning rate to zero at the end of the run; ``none`` keeps it.
        warmup: Number of steps over which the learning rate rises linearly from zero, before the decay.
    """

    decay: Literal["none", "linear"] = "none"
    warmup: int = 0

    @property
    def constant(self) -> bool:
        """True if the learning rate never changes."""
        return self.decay == "none" and self.warmup == 0

    def build(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LambdaLR:
        """Return the scheduler over ``total_steps`` steps.

        Raises:
            ValueError: If the optimizer has no learning rate, or the warm-up is negative or outlasts the run.
        """
        self.check(optimizer)
        if not 0 <= self.warmup < total_steps:
            raise ValueError(
                f"model.schedule.warmup: must lie in [0, {total_steps}), the steps of this run; got {self.warmup}"
            )
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Check that the optimizer has a learning rate.

        Raises:
            ValueError: If it has none.
        """
        if "lr" not in optimizer.param_groups[0]:
            raise ValueError(
                f"model.schedule: {type(optimizer).__name__} has no learning rate; set --model.schedule.decay none "
                "and --model.schedule.warmup 0"
            )

    def factor(self, step: int, total_steps: int) -> float:
        """Return the multiplier of the learning rate at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.decay == "none":
            return 1.0
        return max(0.0, (total_steps - step) / (total_steps - self.warmup))


class WeightAverage:
    r"""Weighted mean of a model's trained parameters over the last steps (polynomial decay averaging).

    .. math:: \bar\theta \leftarrow \bar\theta + (\theta - \bar\theta) \max\Big(\frac{4}{k + 3}, \frac1K\Big)

    after step k: over the last quarter of the steps, so that the early ones lose their weight (Shamir & Zhang 2013,
    with eta = 3), and over no more than K. The optimizer continues from theta, not from the mean.

    torch's :class:`~torch.optim.swa_utils.AveragedModel` was tried and copies its counter to the device at every step,
    for which the host waits; of the whole model it would copy the frozen backbone as well (91 MB of MiniLM for 0.3 MB
    that LoRA trains). So does Lightning's ``WeightAveraging`` callback, which besides writes the mean in place of the
    parameters into every checkpoint.

    Args:
        model: The model.
        steps: K, over how many steps the mean fades at most; 0 keeps none.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.steps, self.count = steps, 0
        self.params = {name: param for name, param in model.named_parameters() if param.requires_grad}
        self.mean: dict[str, Tensor] = {}

    def restart(self) -> None:
        """Discard the mean, after the parameters were reset to an earlier state."""
        self.count, self.mean = 0, {}

    @torch.no_grad()
    def update(self) -> None:
        """Include the parameters after a step."""
        if not self.steps:
            return
        self.count += 1
        if not self.mean:
            self.mean = {name: param.detach().clone() for name, param in self.params.items()}
        weight = max(4 / (self.count + 3), 1 / self.steps)
        torch._foreach_lerp_(self._means(), list(self.params.values()), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the mean in place of the parameters for a while; without a mean, leave them as they are."""
        if not self.mean:
            yield
            return
        params = list(self.params.values())
        trained = [param.detach().clone() for param in params]
        with torch.no_grad():
            torch._foreach_copy_(params, self._means())
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the mean."""
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of steps and the mean.

        Raises:
            CheckpointError: If they are those of another model.
        """
        if state["mean"]:
            compare_names(state["mean"], self.params)
        self.count = state["count"]
        self.mean = {name: mean.clone() for name, mean in state["mean"].items()}

    def _means(self) -> list[Tensor]:
        """Return the mean of every parameter, where the parameter is now: it may have moved since it was loaded."""
        self.mean = {name: self.mean[name].to(param.device, param.dtype) for name, param in self.params.items()}
        return list(self.mean.values())
