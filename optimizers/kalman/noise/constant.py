"""Observation noises that do not look at the data."""

from __future__ import annotations

import torch
from torch import Tensor

from ..parts import State
from .base import ScaledIdentity


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
