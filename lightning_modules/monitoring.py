"""Guards and measurements of a run: precision and strategy checks, divergence, and the time of a step."""

from __future__ import annotations

import copy
import statistics
import time
from types import TracebackType
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from filtune.optimizers import OnlineOptimizer
from filtune.optimizers.likelihoods.tasks import StreamState
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from typing_extensions import Self

MOST_REWINDS = 10
"""Rollbacks of one run before it stops all the same."""


PRECISIONS = ("32", "32-true", "64", "64-true", "bf16", "bf16-mixed")
"""Precisions in which an optimizer driven by its closure works; the other names of each are Lightning's."""


def check_precision(precision: object) -> None:
    """Refuse gradient scaling, and parameters in half precision.

    Args:
        precision: What the trainer was given; None for its default.

    Raises:
        ValueError: If the precision is none of :data:`PRECISIONS`.
    """
    name = str(precision)
    if precision is None or name in PRECISIONS:
        return
    reason = "is not supported"
    if name in ("16", "16-mixed"):
        reason = "scales gradients and cannot drive an optimizer by its closure"
    elif name in ("16-true", "bf16-true"):
        reason = (
            "rounds the trained parameters to half precision, in which small updates are lost (of the frozen ones "
            "--model.backbone.frozen bfloat16 does so)"
        )
    raise ValueError(f"trainer.precision: {name} {reason}; take bf16-mixed or 32-true")


def check_strategy(trainer: pl.Trainer) -> None:
    """Refuse a strategy that shards parameters, and Lightning's own sharding of the samples.

    Raises:
        ValueError: Naming the trainer's argument.
    """
    if type(trainer.strategy) is not DDPStrategy and not isinstance(trainer.strategy, SingleDeviceStrategy):
        name = type(trainer.strategy).__name__
        raise ValueError(f"trainer.strategy: {name} does not keep all parameters on every process; take ddp")
    if trainer.world_size == 1:
        return
    # Lightning has no public way to read this argument back
    if trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "trainer.use_distributed_sampler: the data modules share the samples out themselves; set it to false"
        )


class Watch:
    """Policy for a diverged optimizer: stop, restore the last good state of the run, or go on with a warning.

    That state is the parameters, the optimizer's state and the estimates that follow the targets.

    The good state is the one of the last checkpoint, so that a resumed run has the same one to return to.

    Args:
        policy: ``stop``, or ``rewind``: restore parameters and state, and continue with the samples that follow; after
            ``MOST_REWINDS`` times, stop as well. Or ``warn``: warn once and go on, for a comparison in which a method
            may fail.

    Raises:
        ValueError: If the policy is unknown.
    """

    def __init__(self, policy: Literal["stop", "rewind", "warn"]) -> None:
        if policy not in ("stop", "rewind", "warn"):
            raise ValueError(f"model.on_divergence: must be stop, rewind or warn, got {policy!r}")
        self.policy, self.rewinds, self._warned = policy, 0, False
        self._good: tuple[int, list[torch.Tensor], dict[str, Any], dict[str, Any] | None] | None = None

    def keep(self, optimizer: OnlineOptimizer, step: int, target_state: StreamState | None = None) -> None:
        """Store the present state as the good one.

        Args:
            optimizer: The optimizer.
            step: Number of the step.
            target_state: Estimates that follow the targets, where the run has them.
        """
        if self.policy == "rewind":
            params = [param.detach().clone() for param in optimizer.trained()]
            targets = None if target_state is None else copy.deepcopy(target_state.state_dict())
            self._good = step, params, copy.deepcopy(optimizer.state_dict()), targets

    def state(self) -> list[Any] | None:
        """Return the good state in plain values and tensors, for a checkpoint; None where there is none."""
        return None if self._good is None else list(self._good)

    def load(self, state: list[Any] | None) -> None:
        """Restore what :meth:`state` returned, where the policy is to rewind; of None the present one stays."""
        if self.policy == "rewind" and state is not None:
            step, params, optimizer, targets = state
            self._good = step, params, optimizer, targets

    @torch.no_grad()
    def check(self, optimizer: OnlineOptimizer, step: int, target_state: StreamState | None = None) -> bool:
        """Check the optimizer for divergence; waits for the device.

        Args:
            optimizer: The optimizer.
            step: Number of the step.
            target_state: Estimates that follow the targets, where the run has them.

        Returns:
            Whether parameters and state were restored.

        Raises:
            FloatingPointError: If it diverged and no state can be restored; names the step and the remedy.
        """
        failure = optimizer.check_divergence()
        if failure is None:
            return False
        if self.policy == "warn":
            if not self._warned:
                rank_zero_warn(f"step {step}: {failure}; it goes on (model.on_divergence: warn)")
            self._warned = True
            return False
        if self._good is None:
            raise FloatingPointError(f"step {step}: {failure}; or resume from the last checkpoint")
        if self.rewinds == MOST_REWINDS:
            raise FloatingPointError(f"step {step}: {failure}; diverged again after {self.rewinds} rollbacks")
        self.rewinds += 1
        good, params, state, targets = self._good
        for param, value in zip(optimizer.trained(), params, strict=True):
            param.copy_(value)
        optimizer.load_state_dict(copy.deepcopy(state))
        if target_state is not None and targets is not None:
            target_state.load_state_dict(targets)
        rank_zero_warn(
            f"step {step}: {failure}; parameters and state are restored to those of step {good} "
            f"(rollback {self.rewinds} of {MOST_REWINDS} at most)"
        )
        return True


class StepTimer:
    """Seconds of each step; on CUDA by events, which are read only when needed.

    Args:
        device: Where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._start: float | torch.cuda.Event = 0.0

    def __enter__(self) -> Self:
        """Start the clock."""
        self._start = self._event() if self._cuda else time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the clock."""
        if isinstance(self._start, float):
            self._seconds.append(time.perf_counter() - self._start)
        else:
            self._events.append((self._start, self._event()))

    def median(self) -> float | None:
        """Return the median seconds of a step; None before the first."""
        seconds = self._read()
        return statistics.median(seconds) if seconds else None

    def mean(self) -> float | None:
        """Return the mean seconds of a step; None before the first."""
        seconds = self._read()
        return statistics.fmean(seconds) if seconds else None

    def _read(self) -> list[float]:
        if self._events:
            torch.cuda.synchronize()
            self._seconds += [start.elapsed_time(end) / 1000 for start, end in self._events]
            self._events = []
        return self._seconds

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
