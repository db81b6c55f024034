"""Observation noises that are not estimated: constant, annealed, or the likelihood's own."""

from __future__ import annotations

import torch
from torch import Tensor

from ...parts import State
from .base import ObservationNoise, check_r0


class ScaledIdentity(ObservationNoise):
    """Noise that starts at R = r0 I.

    Args:
        r0: Initial variance of every coordinate; positive, for it is not replaced by an estimate.

    Raises:
        ValueError: If r0 is not positive and finite.
    """

    def __init__(self, *, r0: float = 1.0) -> None:
        check_r0(r0, self.name, can_be_zero=False)
        self.r0 = r0

    def start(self, d: int, like: Tensor) -> State:
        """Return R = r0 I."""
        return {"R": self.r0 * torch.eye(d, dtype=like.dtype, device=like.device)}


class Identity(ScaledIdentity):
    """Constant noise, R = r0 I (Puskorius & Feldkamp 1991)."""

    name = "identity"

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Return R unchanged."""
        return state["R"], {"R": state["R"]}


class Annealed(ScaledIdentity):
    """Annealed noise, R_k = r0 I exp(-k / 50), k = 1, 2, ... (Singhal & Wu 1988), down to the smallest normal float."""

    name = "annealed"

    def start(self, d: int, like: Tensor) -> State:
        """Return R = r0 I and the count of steps."""
        return {**super().start(d, like), "k": torch.zeros((), dtype=torch.int64, device=like.device)}

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Return R of the next step."""
        k = state["k"] + 1
        least = torch.finfo(e.dtype).tiny * torch.eye(e.shape[1], dtype=e.dtype, device=e.device)
        return torch.maximum(state["R"] * torch.exp(-k.to(e.dtype) / 50), least), {"R": state["R"], "k": k}


class LikelihoodCovariance(ObservationNoise):
    """R = Cov(y), diag(p) - pp' of a softmax (Ollivier 2018).

    It may be singular; see :class:`~optimizers.kalman.update.NaturalParameterUpdate` for the stable form.
    """

    name = "softmax"
    from_likelihood = True

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Raise a NotImplementedError: nothing is estimated."""
        raise NotImplementedError("softmax noise is the likelihood's own covariance")
