"""Kronecker factors of L layers of one shape: averages of second moments, with their damped inverses.

Shapes: ``M`` (L, k, k), the average of X'X / count over the refreshes; ``X`` (rows, k) of each layer at a refresh.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import Ranks
from .inverses import Inverse

WIDE = 1024
"""Columns from which a factor of few rows is kept as these rows."""

FIRST, LATER = 30, 3
"""Power iterations from a random vector, and from the last one."""


class Factor(ABC):
    """Factors of L layers.

    The average weighs a refresh by decay^age, and the weights sum to one from the first on: with s <- decay s + 1,
    M <- M + (X'X / count - M) / s.

    Args:
        state: Where it is kept, all tensors; empty at first.
        decay: Of the weights; 0 keeps the last refresh alone.
    """

    def __init__(self, state: dict[str, Any], decay: float) -> None:
        self.state, self.decay = state, decay

    @abstractmethod
    def add(self, rows: Sequence[Tensor], counts: Tensor, ranks: Ranks) -> None:
        """Take a refresh into the average; one that is not finite is left out.

        Args:
            rows: X of every layer, those of this rank.
            counts: By what X'X is divided, of this rank; of all ranks they are summed, (L,).
            ranks: The processes that learn together.
        """

    def prepare(self, root: Tensor, c: Tensor) -> None:
        """Invert M + lam I, lam = sqrt(rho) c.

        Args:
            root: sqrt(rho), ().
            c: Scale of the damping, kept until the next refresh, (L,).
        """
        self.state["scale"] = c
        self._invert(root * c)

    def damping(self, root: Tensor) -> Tensor:
        """lam = sqrt(rho) c, (L,)."""
        return root * self.state["scale"]

    @abstractmethod
    def _invert(self, lam: Tensor) -> None: ...

    @abstractmethod
    def solve(self, V: Tensor, lam: Tensor | None = None) -> Tensor:
        """V (M + lam I)^-1, V (L, r, k); at the damping that was prepared where lam is None."""

    @abstractmethod
    def times(self, V: Tensor) -> Tensor:
        """VM, (L, r, k)."""

    @abstractmethod
    def spectral_norm(self) -> Tensor:
        """|M|_2, (L,); of a dense factor from below, by power iteration, unless its eigenvalues are known."""

    @abstractmethod
    def trace(self) -> Tensor:
        """tr M, (L,)."""

    @property
    def columns(self) -> int:
        """k."""
        return self.state["probe"].shape[-1]

    @property
    def indefinite(self) -> Tensor:
        """How many inverses have fallen back so far, ()."""
        return self.state["indefinite"]

    def residual(self) -> Tensor:
        """Estimate of |I - (M + lam I)X|_F / sqrt(k), X the inverse that was prepared, from one probe; (L,)."""
        lam, probe = self.state["prepared"][:, None, None], self.state["probe"]
        damped = self.times(probe) + lam * probe
        return ((probe - self.solve(damped)).norm(dim=-1) / probe.norm(dim=-1)).squeeze(-1)


class DenseFactor(Factor):
    """M as matrices.

    Args:
        state: Where it is kept.
        decay: Of the weights.
        inverse: How M + lam I is inverted.
    """

    def __init__(self, state: dict[str, Any], decay: float, inverse: Inverse) -> None:
        super().__init__(state, decay)
        self.inverse = inverse

    def add(self, rows: Sequence[Tensor], counts: Tensor, ranks: Ranks) -> None:
        """Take a refresh into the average."""
        total = ranks.sum(counts).clamp_min(1)[:, None, None]
        new = ranks.sum(torch.stack([X.mT @ X for X in rows])) / total
        if "M" not in self.state:
            probe = random_units(new).sign()
            self.state |= {"M": torch.zeros_like(new), "total": new.new_zeros(()), "probe": probe}
        self.state["total"] = self.decay * self.state["total"] + 1
        finite = new.sum((-2, -1), keepdim=True).isfinite()
        change = torch.where(finite, new - self.state["M"], 0)
        self.state["M"] = self.state["M"] + change / self.state["total"]
        self.state |= self.inverse.decompose(self.state["M"])

    def _invert(self, lam: Tensor) -> None:
        self.state |= self.inverse.prepare(self.state["M"], lam, self.state)

    def solve(self, V: Tensor, lam: Tensor | None = None) -> Tensor:
        """V (M + lam I)^-1."""
        return self.inverse.solve(self.state, V, lam)

    def times(self, V: Tensor) -> Tensor:
        """VM."""
        return V @ self.state["M"]

    def spectral_norm(self) -> Tensor:
        """By power iteration from a random vector, later from the one it came to, or the largest eigenvalue."""
        if "values" in self.state:
            return self.state["values"][:, -1]
        M, known = self.state["M"], "vector" in self.state
        v = self.state["vector"] if known else random_units(M)
        for _ in range(LATER if known else FIRST):
            v = torch.nn.functional.normalize(v @ M, dim=-1, eps=torch.finfo(M.dtype).tiny)
        zero = v.norm(dim=-1, keepdim=True) == 0  # of a zero M: start again when there is something to find
        self.state["vector"] = torch.where(zero, random_units(M), v)
        return (v @ M).norm(dim=-1).squeeze(-1)

    def trace(self) -> Tensor:
        """tr M."""
        return self.state["M"].diagonal(dim1=-2, dim2=-1).sum(-1)


def random_units(like: Tensor) -> Tensor:
    """The same random unit vectors whenever they are asked for, (L, 1, k), from a tensor (L, ..., k)."""
    draw = torch.randn(len(like), 1, like.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.normalize(draw, dim=-1).to(like)
