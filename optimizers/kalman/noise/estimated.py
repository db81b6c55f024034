"""Observation noises that are estimated from the residuals by exponential moving averages.

Shapes: ``B`` batch, ``d`` observation coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...parts import State
from ...ranges import BELOW_ONE, check_arguments
from ..equations import mean_outer, own_blocks
from .base import ObservationNoise, check_r0


class MovingAverage(ObservationNoise):
    """Noise that is averaged from R = r0 I on.

    Args:
        r0: Initial variance of every coordinate; it decays, so it may be zero.
        beta: Forgetting factor of the average, in [0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, *, r0: float = 1.0, beta: float = 0.95) -> None:
        check_arguments("", [("beta", beta, *BELOW_ONE.judge(beta))])
        check_r0(r0, self.name, can_be_zero=True)
        self.r0, self.beta = r0, beta

    def start(self, d: int, like: Tensor) -> State:
        """Return R = r0 I."""
        return {"R": self.r0 * torch.eye(d, dtype=like.dtype, device=like.device)}


class EmaMethod1(MovingAverage):
    """Noise of LoKO eq. 7, method 1: R <- beta R + (1 - beta) ee', averaged over the batch."""

    name = "ema-1"

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Average in ee'."""
        R = self.beta * state["R"] + (1 - self.beta) * mean_outer(e)
        return R, {"R": R}


class EmaMethod2(MovingAverage):
    """Noise of LoKO eq. 12, method 2: R <- beta R + (1 - beta)(ee' + HPH').

    In a batch the increment is the mean over the samples, each with its own block of HPH'.
    """

    name = "ema-2"

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Average in ee' + HPH'."""
        R = self.beta * state["R"] + (1 - self.beta) * (mean_outer(e) + own_blocks(HPH, e.shape[1]).mean(0))
        return R, {"R": R}


class EmaInnovation(MovingAverage):
    """The classical estimator from the innovations, Cov(e) = HPH' + R: R <- beta R + (1 - beta)(ee' - HPH').

    What is remembered may be indefinite. What is used has its eigenvalues raised to ``FLOOR`` times the mean of the
    diagonal of the same average of ee' + HPH'.
    """

    name = "ema_innovation"
    FLOOR = 1e-3

    def start(self, d: int, like: Tensor) -> State:
        """Return R = r0 I, and r0 for the scale of ee' + HPH'."""
        return {**super().start(d, like), "innovation": torch.full((), self.r0, dtype=like.dtype, device=like.device)}

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Average in ee' - HPH', and raise the eigenvalues."""
        residual, predicted = mean_outer(e), own_blocks(HPH, e.shape[1]).mean(0)
        scale = self.beta * state["innovation"] + (1 - self.beta) * (residual + predicted).diagonal().mean()
        R = self.beta * state["R"] + (1 - self.beta) * (residual - predicted)
        values, vectors = torch.linalg.eigh(torch.nan_to_num(0.5 * (R + R.mT)))
        return (vectors * values.clamp_min(self.FLOOR * scale)) @ vectors.mT, {"R": R, "innovation": scale}


class Scalar(MovingAverage):
    """One running number: R = r I with r <- beta r + (1 - beta) |e|^2 / d, averaged over the batch."""

    name = "scalar"

    def grow(self, state: State, like: Tensor, d: int) -> State:
        """Return r I; there is one number for all coordinates."""
        return {"R": state["R"][0, 0] * torch.eye(d, dtype=like.dtype, device=like.device)}

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Average in the mean square of the residual."""
        identity = torch.eye(e.shape[1], dtype=e.dtype, device=e.device)
        R = self.beta * state["R"] + (1 - self.beta) * e.square().mean() * identity
        return R, {"R": R}
