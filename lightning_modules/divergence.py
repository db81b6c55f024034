"""What a run does when its optimizer diverges: stop, or go back to the last good state."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from filtune.optimizers import OnlineOptimizer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

MOST_REWINDS = 10


class Watch:
    """Keeps the last good state of an optimizer and its parameters.

    The good state is the one of the last checkpoint, so that a resumed run has the same one to go back to.

    Args:
        policy: ``stop``, or ``rewind``: take back parameters and state, and go on with the samples that follow; after
            ``MOST_REWINDS`` of them, stop as well.
    """

    def __init__(self, policy: Literal["stop", "rewind"]) -> None:
        if policy not in ("stop", "rewind"):
            raise ValueError(f"model.on_divergence: must be stop or rewind, got {policy!r}")
        self.policy, self.rewinds = policy, 0
        self._good: tuple[int, list[torch.Tensor], dict[str, Any]] | None = None

    def keep(self, optimizer: OnlineOptimizer, step: int) -> None:
        """Take the present state for the good one."""
        if self.policy == "rewind":
            params = [param.detach().clone() for param in optimizer.trained()]
            self._good = step, params, copy.deepcopy(optimizer.state_dict())

    @torch.no_grad()
    def check(self, optimizer: OnlineOptimizer, step: int) -> bool:
        """Look whether all went well; waits for the device.

        Returns:
            Whether parameters and state were taken back.

        Raises:
            FloatingPointError: If it did not, and nothing can be taken back; names the step and the remedy.
        """
        failure = optimizer.check_divergence()
        if failure is None:
            return False
        if self._good is None:
            raise FloatingPointError(f"step {step}: {failure}; or resume from the last checkpoint")
        if self.rewinds == MOST_REWINDS:
            raise FloatingPointError(f"step {step}: {failure}; it was taken back {self.rewinds} times, in vain")
        self.rewinds += 1
        good, params, state = self._good
        for param, value in zip(optimizer.trained(), params, strict=True):
            param.copy_(value)
        optimizer.load_state_dict(copy.deepcopy(state))
        rank_zero_warn(
            f"step {step}: {failure}; parameters and state are again those of step {good} "
            f"(time {self.rewinds} of {MOST_REWINDS} at most)"
        )
        return True
