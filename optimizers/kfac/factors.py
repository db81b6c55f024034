"""Kronecker factors of L layers of one shape: running averages of second moments, with their damped inverses.

For a layer y = W x, Lambda = E[xx'] is called ``a_factor`` and Gamma = E[ee'] ``g_factor``, e the derivative of the
log-likelihood by y; the Fisher information of W is approximated by Lambda (x) Gamma (GRNG eqs. 6 and 7).

Shapes: ``M`` (L, k, k), the average of X'X / count over the refreshes; ``X`` (rows, k) of each layer at a refresh.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import Ranks
from .inverses import InverseMethod, reciprocal

LOW_RANK_COLUMNS = 1024
"""Columns from which a running average of few rows is held as these rows, the oldest of which are dropped."""

LAST_REFRESH_COLUMNS = 64
"""The same for a factor of the last refresh only, of which nothing is dropped; below, a dense inverse is as fast."""

MAX_EARLIER_ROWS = 256
"""Most rows that a low-rank factor keeps of earlier refreshes."""

EXACT_COLUMNS = 64
"""Columns up to which the spectral norm is an eigenvalue; an iteration would take as long."""

LANCZOS_STEPS = 18
"""Steps of Lanczos' method for the spectral norm of larger factors, from a random vector."""

NORM_TOLERANCE = 0.1
"""How far the estimate may be below the spectral norm, relatively.

By Kuczynski & Wozniakowski (1992, theorem 4.2) it is further below, over the random vectors, with probability at most
1.648 sqrt(k) exp(-sqrt(tolerance) (2 steps - 1)): 0.0008 for k = 1000. It is usually exact to four digits.
"""


class Factor(ABC):
    """Kronecker factors of L layers of one shape.

    The average weighs a refresh by decay^age, and the weights sum to one from the first refresh on: with
    s <- decay s + 1, M <- M + (X'X / count - M) / s.

    Args:
        state: The dictionary that holds it; empty at first.
        decay: Decay of the weights; 0 keeps the last refresh only.
    """

    def __init__(self, state: dict[str, Any], decay: float) -> None:
        self.state, self.decay = state, decay

    @abstractmethod
    def add(self, rows: Sequence[Tensor], counts: Tensor, ranks: Ranks) -> None:
        """Add a refresh to the average; one that is not finite is left out.

        Args:
            rows: X of every layer, of this rank's samples.
            counts: Divisors of X'X, (L,), of this rank's samples; they are summed over the ranks.
            ranks: The processes that train together.
        """

    def prepare(self, root: Tensor, c: Tensor) -> None:
        """Invert M + lam I, lam = sqrt(rho) c.

        Args:
            root: sqrt(rho), ().
            c: Scale of the damping, (L,), kept until the next refresh.
        """
        self.state["scale"] = c
        self.invert(root * c)

    def damping(self, root: Tensor) -> Tensor:
        """Return lam = sqrt(rho) c, (L,)."""
        return root * self.state["scale"]

    @abstractmethod
    def invert(self, lam: Tensor) -> None:
        """Invert M + lam I, lam (L,)."""

    @abstractmethod
    def solve(self, V: Tensor, lam: Tensor | None = None) -> Tensor:
        """Return V (M + lam I)^-1, V (L, r, k); at the damping it was prepared at where lam is None."""

    @abstractmethod
    def times(self, V: Tensor) -> Tensor:
        """Return VM, (L, r, k)."""

    @abstractmethod
    def spectral_norm(self) -> Tensor:
        """Return |M|_2, (L,); of a large dense factor a lower bound within ``NORM_TOLERANCE`` of it."""

    @abstractmethod
    def trace(self) -> Tensor:
        """Return tr M, (L,)."""

    @property
    def columns(self) -> int:
        """Number of columns, k."""
        return self.state["probe"].shape[-1]

    @property
    def inverse_failures(self) -> Tensor:
        """Number of matrices that had no inverse so far, ()."""
        return self.state["inverse_failures"]

    def residual(self) -> Tensor:
        """Return an estimate of |I - (M + lam I)X|_F / sqrt(k) from one probe, X the prepared inverse; (L,)."""
        lam, probe = self.state["prepared"][:, None, None], self.state["probe"]
        damped = self.times(probe) + lam * probe
        return ((probe - self.solve(damped)).norm(dim=-1) / probe.norm(dim=-1)).squeeze(-1)


class DenseFactor(Factor):
    """M as matrices.

    Args:
        state: The dictionary that holds it.
        decay: Decay of the weights.
        inverse: Method by which M + lam I is inverted.
    """

    def __init__(self, state: dict[str, Any], decay: float, inverse: InverseMethod) -> None:
        super().__init__(state, decay)
        self.inverse = inverse

    def add(self, rows: Sequence[Tensor], counts: Tensor, ranks: Ranks) -> None:
        """Add a refresh to the average, layer by layer and in place, which the cache of a CPU holds."""
        if "M" not in self.state:
            M = rows[0].new_zeros(len(rows), rows[0].shape[1], rows[0].shape[1])
            self.state |= {"M": M, "total": M.new_zeros(()), "probe": random_units(M).sign()}
        self.state["total"] = self.decay * self.state["total"] + 1
        counts = ranks.sum(counts).clamp_min(1)
        joined = ranks.sum(torch.stack([X.mT @ X for X in rows])) if ranks.world > 1 else None
        for i, (M, X) in enumerate(zip(self.state["M"], rows, strict=True)):
            new = X.mT @ X if joined is None else joined[i]
            finite = new.trace().isfinite()  # no entry is larger than the largest on the diagonal
            share = torch.where(finite, 1 / self.state["total"], 0)
            M.mul_(1 - share).add_(torch.nan_to_num(new, 0, 0, 0, out=new).mul_(share / counts[i]))
        self.state |= self.inverse.decompose(self.state["M"])

    def invert(self, lam: Tensor) -> None:
        """Invert M + lam I."""
        self.state |= self.inverse.prepare(self.state["M"], lam, self.state)

    def solve(self, V: Tensor, lam: Tensor | None = None) -> Tensor:
        """Return V (M + lam I)^-1."""
        return self.inverse.solve(self.state, V, lam)

    def times(self, V: Tensor) -> Tensor:
        """Return the product VM."""
        return V @ self.state["M"]

    def spectral_norm(self) -> Tensor:
        """Return the largest eigenvalue, or its estimate by Lanczos' method."""
        if "values" in self.state:
            return self.state["values"][:, -1]
        return largest_eigenvalue(self.state["M"])

    def trace(self) -> Tensor:
        """Return tr M."""
        return self.state["M"].diagonal(dim1=-2, dim2=-1).sum(-1)


class LowRankFactor(Factor):
    r"""M = X'X held as its rows X, (L, rows, k), and inverted in the space of the rows, exactly at every damping.

    .. math::
        (X^\top X + lam I)^{-1} = \tfrac{1}{lam} \left(I - X^\top (X X^\top + lam I)^{-1} X\right)

    For factors with far fewer rows than columns, such as those of a convolution with many channels on a small image.
    The rows of a refresh are weighted as in every factor. The oldest refreshes are dropped, and the other weights
    raised to sum to one, so that at most ``MAX_EARLIER_ROWS`` rows remain beside those of the last refresh.
    """

    def add(self, rows: Sequence[Tensor], counts: Tensor, ranks: Ranks) -> None:
        """Add the rows of a refresh, of all ranks."""
        longest = max(len(X) for X in rows)
        padded = torch.stack([torch.nn.functional.pad(X, (0, 0, 0, longest - len(X))) for X in rows], 1)
        sizes = ranks.integers(longest, padded.device) if ranks.world > 1 else [longest]
        new = ranks.gather([padded], sizes)[0].transpose(0, 1)
        new = new / ranks.sum(counts).clamp_min(1).sqrt()[:, None, None]
        new = torch.where(new.sum((-2, -1), keepdim=True).isfinite(), new, 0)
        old, lengths = self.state.get("X", new[:, :0]), list(self.state.get("lengths", []))
        while lengths and (sum(lengths) > MAX_EARLIER_ROWS or not self.decay):
            old = old[:, lengths.pop(0) :]
        lengths.append(new.shape[1])
        weights = [self.decay ** (len(lengths) - 1 - i) for i in range(len(lengths))]
        self.state |= {"X": torch.cat([self.decay**0.5 * old, new], 1), "lengths": lengths}
        self.state |= {"total": new.new_full((), sum(weights)), "probe": random_units(new).sign()}
        X = self._rows()
        values, vectors = torch.linalg.eigh(X @ X.mT)
        self.state |= {"values": values.clamp_min(0), "vectors": vectors}

    def invert(self, lam: Tensor) -> None:
        """Prepare the damping lam; the rows are inverted exactly at every other one, too."""
        self.state |= {"prepared": lam, "inverse_failures": torch.zeros((), dtype=torch.int64, device=lam.device)}

    def solve(self, V: Tensor, lam: Tensor | None = None) -> Tensor:
        """Return (V - V X'Q (D + lam I)^-1 Q'X) / lam."""
        lam = self.state["prepared"] if lam is None else lam
        X, Q = self._rows(), self.state["vectors"]
        inner = (V @ X.mT) @ Q * reciprocal(self.state["values"] + lam[:, None]).unsqueeze(1)
        return (V - (inner @ Q.mT) @ X) * reciprocal(lam)[:, None, None]

    def times(self, V: Tensor) -> Tensor:
        """Return the product VM."""
        X = self._rows()
        return (V @ X.mT) @ X

    def spectral_norm(self) -> Tensor:
        """Return the largest eigenvalue of XX'."""
        return self.state["values"][:, -1]

    def trace(self) -> Tensor:
        """Return tr XX'."""
        return self.state["values"].sum(-1)

    def _rows(self) -> Tensor:
        return self.state["X"] / self.state["total"].sqrt()


def prefers_low_rank(columns: int, rows: int, decay: float, inverse: InverseMethod) -> bool:
    """Return whether a factor is cheaper to hold as its rows.

    Args:
        columns: k.
        rows: Of one refresh.
        decay: Decay of the average; without one, the rows of the last refresh are the whole factor.
        inverse: Method by which it would be inverted otherwise; an iteration that was asked for is kept.
    """
    least = LAST_REFRESH_COLUMNS if not decay and not inverse.is_iteration else LOW_RANK_COLUMNS
    return columns >= least and 2 * rows <= columns


def largest_eigenvalue(M: Tensor) -> Tensor:
    """Return the largest eigenvalue of positive semi-definite matrices (L, k, k), (L,); see ``NORM_TOLERANCE``.

    Lanczos' method with full reorthogonalisation. The basis does not depend on earlier refreshes: a vector that was
    leading once may be orthogonal to the one that is now.
    """
    if M.shape[-1] <= EXACT_COLUMNS:
        return torch.linalg.eigvalsh(torch.nan_to_num(M))[:, -1].clamp_min(0)
    scale = M.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]  # squares of tiny entries would underflow
    divisor = torch.where(scale > 0, scale, 1)
    exhausted = 100 * torch.finfo(M.dtype).eps  # of the trace: what is left of a vector is rounding
    basis = random_units(M)
    rows = []
    for _ in range(LANCZOS_STEPS):
        w = basis[:, -1:] @ M / divisor
        rows.append(w)
        for _ in range(2):  # once leaves what rounding has added
            w = w - (w @ basis.mT) @ basis
        length = w.norm(dim=-1, keepdim=True)
        basis = torch.cat([basis, torch.where(length > exhausted, w / length, 0)], 1)
    T = torch.cat(rows, 1) @ basis[:, :-1].mT
    values = torch.linalg.eigvalsh(torch.nan_to_num(0.5 * (T + T.mT)))
    return values[:, -1].clamp_min(0) * scale.flatten()


def random_units(like: Tensor) -> Tensor:
    """Return fixed pseudo-random unit vectors, (L, 1, k), for a tensor (L, ..., k)."""
    draw = torch.randn(len(like), 1, like.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.normalize(draw, dim=-1).to(like)
