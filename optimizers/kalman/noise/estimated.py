"""Observation noise: the covariance R of what is observed about what is predicted, one class an estimator.

Shapes: ``B`` batch, ``d`` observation coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .equations import mean_outer, own_blocks

State = dict[str, Tensor]


class ObservationNoise(ABC):
    """An estimator of R, without state of its own: what it remembers is handed to it and back.

    Args:
        r0: Scale of the first R, r0 I.
        beta: Forgetting factor, where there is one.
    """

    natural = False
    """Whether R is the likelihood's own covariance, observed through the natural parameters."""

    at_mode = False
    """Whether that covariance is taken at the mode of the posterior, not at the prediction."""

    forgets_start = False
    """Whether R0 decays, so that it may be zero."""

    def __init__(self, r0: float, beta: float) -> None:
        self.r0, self.beta = r0, beta

    def start(self, d: int, like: Tensor) -> State:
        """What is remembered before the first step."""
        return {"R": self.r0 * torch.eye(d, dtype=like.dtype, device=like.device)}

    @abstractmethod
    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """R of this step, (d, d), and what is remembered.

        Args:
            state: What is remembered so far.
            e: Residuals, (B, d).
            HPH: H P H', (B*d, B*d).
        """


class Identity(ObservationNoise):
    """R = r0 I (Puskorius & Feldkamp 1991)."""

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """R as it is."""
        return state["R"], {"R": state["R"]}


class Annealed(ObservationNoise):
    """R_k = r0 I exp(-k / 50), k = 1, 2, ... (Singhal & Wu 1988), down to the smallest normal number."""

    def start(self, d: int, like: Tensor) -> State:
        """R0 and the count of steps."""
        return {**super().start(d, like), "k": torch.zeros((), dtype=torch.int64, device=like.device)}

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """One step further down."""
        k = state["k"] + 1
        least = torch.finfo(e.dtype).tiny * torch.eye(e.shape[1], dtype=e.dtype, device=e.device)
        return torch.maximum(state["R"] * torch.exp(-k.to(e.dtype) / 50), least), {"R": state["R"], "k": k}


class EmaResidual(ObservationNoise):
    """LoKO eq. 7, method 1: R <- beta R + (1 - beta) ee', averaged over the batch."""

    forgets_start = True

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Average in ee'."""
        R = self.beta * state["R"] + (1 - self.beta) * mean_outer(e)
        return R, {"R": R}


class EmaInnovation(ObservationNoise):
    """LoKO eq. 12, method 2: R <- beta R + (1 - beta)(ee' + HPH').

    In a batch the increment is the mean over the samples, each with its own block of HPH'.
    """

    forgets_start = True

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Average in ee' + HPH'."""
        R = self.beta * state["R"] + (1 - self.beta) * (mean_outer(e) + own_blocks(HPH, e.shape[1]).mean(0))
        return R, {"R": R}


class EmaDifference(ObservationNoise):
    """The classical estimator from the innovations, Cov(e) = HPH' + R: R <- beta R + (1 - beta)(ee' - HPH').

    What is remembered may be indefinite. What is used has its eigenvalues raised to ``FLOOR`` times the mean of the
    diagonal of the same average of ee' + HPH'.
    """

    forgets_start = True
    FLOOR = 1e-3

    def start(self, d: int, like: Tensor) -> State:
        """R0, and its scale for that of ee' + HPH'."""
        return {**super().start(d, like), "innovation": torch.full((), self.r0, dtype=like.dtype, device=like.device)}

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Average in ee' - HPH', and project."""
        residual, predicted = mean_outer(e), own_blocks(HPH, e.shape[1]).mean(0)
        scale = self.beta * state["innovation"] + (1 - self.beta) * (residual + predicted).diagonal().mean()
        R = self.beta * state["R"] + (1 - self.beta) * (residual - predicted)
        values, vectors = torch.linalg.eigh(torch.nan_to_num(0.5 * (R + R.mT)))
        return (vectors * values.clamp_min(self.FLOOR * scale)) @ vectors.mT, {"R": R, "innovation": scale}


class Scalar(ObservationNoise):
    """One running number: R = r I with r <- beta r + (1 - beta) |e|^2 / d, averaged over the batch."""

    forgets_start = True

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Average in the mean square of the residual."""
        identity = torch.eye(e.shape[1], dtype=e.dtype, device=e.device)
        R = self.beta * state["R"] + (1 - self.beta) * e.square().mean() * identity
        return R, {"R": R}


class Softmax(ObservationNoise):
    """R = Cov(y) = diag(y) - yy' of a softmax (Ollivier 2018), I of a Gaussian; see :class:`Natural`."""

    natural = True

    def start(self, d: int, like: Tensor) -> State:
        """Nothing."""
        return {}

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Not asked for: the likelihood knows it."""
        raise NotImplementedError("softmax noise is the likelihood's own")


class PosteriorMode(Softmax):
    """The same at the mode of the posterior, found by iteration (:class:`~optimizers.kalman.posterior_mode.Mode`)."""

    at_mode = True


NOISES: dict[str, type[ObservationNoise]] = {
    "identity": Identity,
    "annealed": Annealed,
    "softmax": Softmax,
    "mode": PosteriorMode,
    "ema-1": EmaResidual,
    "ema-2": EmaInnovation,
    "ema-minus": EmaDifference,
    "scalar": Scalar,
}
