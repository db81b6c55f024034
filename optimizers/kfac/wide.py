"""Factors with far fewer rows than columns, as those of a convolution with many channels: never formed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed import Ranks
from .factors import Factor, random_units
from .inverses import reciprocal

MOST_ROWS = 256
"""Rows that are kept of earlier refreshes."""


class WideFactor(Factor):
    r"""M = X'X as its rows X, (L, rows, k), inverted in the space of the rows, exactly at every damping.

    .. math::
        (X^\top X + lam I)^{-1} = \tfrac{1}{lam} \left(I - X^\top (X X^\top + lam I)^{-1} X\right)

    The rows of a refresh are weighted as in every factor; of the earlier refreshes the oldest are dropped, and the
    weights of the others raised to sum to one, so that no more than ``MOST_ROWS`` remain beside the last.
    """

    def add(self, rows: Sequence[Tensor], counts: Tensor, ranks: Ranks) -> None:
        """Take the rows of a refresh in, those of all ranks."""
        longest = max(len(X) for X in rows)
        padded = torch.stack([torch.nn.functional.pad(X, (0, 0, 0, longest - len(X))) for X in rows], 1)
        sizes = ranks.integers(longest, padded.device) if ranks.world > 1 else [longest]
        new = ranks.gather([padded], sizes)[0].transpose(0, 1)
        new = new / ranks.sum(counts).clamp_min(1).sqrt()[:, None, None]
        new = torch.where(new.sum((-2, -1), keepdim=True).isfinite(), new, 0)
        old, lengths = self.state.get("X", new[:, :0]), list(self.state.get("lengths", []))
        while lengths and (sum(lengths) > MOST_ROWS or not self.decay):
            old = old[:, lengths.pop(0) :]
        lengths.append(new.shape[1])
        weights = [self.decay ** (len(lengths) - 1 - i) for i in range(len(lengths))]
        self.state |= {"X": torch.cat([self.decay**0.5 * old, new], 1), "lengths": lengths}
        self.state |= {"total": new.new_full((), sum(weights)), "probe": random_units(new).sign()}
        X = self._rows()
        values, vectors = torch.linalg.eigh(X @ X.mT)
        self.state |= {"values": values.clamp_min(0), "vectors": vectors}

    def _invert(self, lam: Tensor) -> None:
        self.state |= {"prepared": lam, "indefinite": torch.zeros((), dtype=torch.int64, device=lam.device)}

    def solve(self, V: Tensor, lam: Tensor | None = None) -> Tensor:
        """(V - V X'Q (D + lam I)^-1 Q'X) / lam."""
        lam = self.state["prepared"] if lam is None else lam
        X, Q = self._rows(), self.state["vectors"]
        inner = (V @ X.mT) @ Q * reciprocal(self.state["values"] + lam[:, None]).unsqueeze(1)
        return (V - (inner @ Q.mT) @ X) * reciprocal(lam)[:, None, None]

    def times(self, V: Tensor) -> Tensor:
        """VM."""
        X = self._rows()
        return (V @ X.mT) @ X

    def spectral_norm(self) -> Tensor:
        """The largest eigenvalue of XX'."""
        return self.state["values"][:, -1]

    def trace(self) -> Tensor:
        """tr XX'."""
        return self.state["values"].sum(-1)

    def _rows(self) -> Tensor:
        return self.state["X"] / self.state["total"].sqrt()
