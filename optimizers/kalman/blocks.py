"""Blocks of the Jacobian, and the filter algebra on them.

A block is the part of H (rows, n_i) that belongs to a contiguous slice of the state. ``DenseBlock`` holds it as a
matrix; ``OuterProduct`` holds a dense layer's part in factors and never forms it. Tests compare the two.

Shapes: ``rows`` = B*d, one a sample and observation coordinate.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 18
"""Most elements of a temporary in the filter algebra on a CPU, so that it stays in cache; on a GPU 256 times as
many, for there a small operation costs as much as a large one. Memory does not grow with n."""

FEW = 2
"""Rows of a sample up to which VPH' with the matrix of an outer product is faster than with its factors: the factors
take one pass over V, however many rows there are, at two thirds of the speed of that of a single row."""

Pair = tuple[Tensor, Tensor]


class Gain(NamedTuple):
    """A filter's gain in the space of the observed rows, where P is the prior covariance and H the Jacobian.

    The change of state is P H'(W'u + v), the posterior covariance P - P H'W'WH P.

    Attributes:
        W: (k, rows).
        u: (k,).
        v: (rows,), or None for zero. Kept separate from u for numerical stability: W'u can overflow where WH does not.
    """

    W: Tensor
    u: Tensor
    v: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Gain:
        """Return the gain in another floating type."""
        return Gain(self.W.to(dtype), self.u.to(dtype), None if self.v is None else self.v.to(dtype))


class Block(Protocol):
    """Interface of a part of the Jacobian, as the filter calls it."""

    def gram(self, p: Tensor) -> Tensor:
        """Return H diag(p) H', (rows, rows)."""
        ...

    def update(self, p: Tensor, gain: Gain, out: Pair | None = None) -> Pair:
        """Return the change of state and the reduction of variance, LoKO eqs. 11b and 11c.

        These are Ke = p * H'(W'u + v) and diag(KH) p = p^2 * sum_k (WH)_k^2.

        Args:
            p: Prior variance of the slice, (n_i,).
            gain: The gain in the space of the rows.
            out: Where to put them.
        """
        ...

    def cross(self, p: Tensor, V: Tensor) -> Tensor:
        """Return V diag(p) H', (k, rows), for the slice's columns of a matrix V, (k, n_i), of any floating type."""
        ...

    def combine(self, C: Tensor, out: Tensor) -> None:
        """Write CH, linear combinations of the rows of H by C (j, rows), to ``out``, (j, n_i)."""
        ...

    def squares(self, C: Tensor, out: Tensor) -> None:
        """Write the diagonal of H'C'CH, the sum over the rows of CH of their squares, to ``out``, (n_i,)."""
        ...

    def dense(self) -> Tensor:
        """Return the block as a matrix, (rows, n_i)."""
        ...


class DenseBlock:
    """A block held as a matrix, processed in chunks of columns.

    Args:
        H: Jacobian of the slice, (rows, n_i).
    """

    def __init__(self, H: Tensor) -> None:
        self.H = H

    def gram(self, p: Tensor) -> Tensor:
        """Return H diag(p) H', (rows, rows)."""
        total = self.H.new_zeros(len(self.H), len(self.H))
        for columns in self._chunks():
            H = self.H[:, columns]
            total.addmm_(H * p[columns], H.mT)
        return total

    def update(self, p: Tensor, gain: Gain, out: Pair | None = None) -> Pair:
        """Return Ke and diag(KH) p, each (n_i,)."""
        change, reduction = out or (torch.empty_like(p), torch.empty_like(p))
        if gain.W.shape == (1, 1):
            return self._update_row(p, gain, change, reduction)
        for columns in self._chunks():
            H = self.H[:, columns]
            WH = gain.W @ H
            direction = gain.u @ WH if gain.v is None else gain.u @ WH + gain.v @ H
            torch.mul(p[columns], direction, out=change[columns])
            torch.mul(p[columns].square(), WH.square_().sum(0), out=reduction[columns])
        return change, reduction

    def _update_row(self, p: Tensor, gain: Gain, change: Tensor, reduction: Tensor) -> Pair:
        """Do the update for a single row, in half the passes over the state."""
        for columns in self._chunks():
            h, prior, Ke, pWh = self.H[0, columns], p[columns], change[columns], reduction[columns]
            torch.mul(prior, gain.W[0] * h, out=pWh)
            torch.mul(pWh, gain.u, out=Ke)
            if gain.v is not None:
                Ke.addcmul_(prior, gain.v * h)
            pWh.square_()
        return change, reduction

    def cross(self, p: Tensor, V: Tensor) -> Tensor:
        """Return V diag(p) H', (k, rows)."""
        total, dtype = self.H.new_zeros(len(self.H), len(V)), self.H.dtype
        for columns in self._chunks(0 if V.dtype == dtype else len(V)):
            # on a CPU faster than V times PH', twice for two rows
            total.addmm_(self.H[:, columns] * p[columns], V[:, columns].to(dtype).mT)
        return total.mT

    def combine(self, C: Tensor, out: Tensor) -> None:
        """Write CH to ``out``, (j, n_i)."""
        torch.mm(C, self.H, out=out)

    def squares(self, C: Tensor, out: Tensor) -> None:
        """Write the diagonal of H'C'CH to ``out``, (n_i,)."""
        for columns in self._chunks():
            torch.sum((C @ self.H[:, columns]).square_(), 0, out=out[columns])

    def dense(self) -> Tensor:
        """Return H, (rows, n_i)."""
        return self.H

    def _chunks(self, others: int = 0) -> Iterator[slice]:
        """Return the columns in chunks, whose temporaries have as many rows as H, or as others that are converted."""
        rows, n = self.H.shape
        width = max(1, chunk_elements(self.H) // max(rows, others))
        return (slice(start, min(start + width, n)) for start in range(0, n, width))


class OuterProduct:
    """The weight of a dense layer seen at one position: row (b, j) of H is g_bj x_b', flattened.

    Then HPH' and diag(H'S^-1H) follow from products of the factors, at the cost of a few passes over p.

    Args:
        G: Derivative of the observation coordinates with respect to the layer's output, (B, d, out).
        X: The layer's input, (B, in).
    """

    def __init__(self, G: Tensor, X: Tensor) -> None:
        self.G, self.X = G, X

    def gram(self, p: Tensor) -> Tensor:
        """Return H diag(p) H', (rows, rows): sum_o g_bjo g_cko Q_bco with Q_bco = sum_i P_oi x_bi x_ci."""
        B, d, out = self.G.shape
        P = p.view(out, -1)
        Q = torch.cat([pairs @ P.mT for pairs in self._pairs()]).view(B, B, out)
        weighted = self.G.unsqueeze(1) * Q.unsqueeze(2)
        return (weighted @ self.G.mT).transpose(1, 2).reshape(B * d, B * d)

    def update(self, p: Tensor, gain: Gain, out: Pair | None = None) -> Pair:
        """Return Ke and diag(KH) p, each (out * in,)."""
        B, d, width = self.G.shape
        change, reduction = out or (torch.empty_like(p), torch.empty_like(p))
        P = p.view(width, -1)
        A = self._by_output(gain.W)
        weights = gain.u @ A
        if gain.v is not None:
            weights = weights + (gain.v.view(B, 1, d) @ self.G).squeeze(1)
        torch.mm(weights.mT, self.X, out=change.view_as(P)).mul_(P)
        self._add_squares(A, reduction.view_as(P).zero_())
        reduction.mul_(p).mul_(p)
        return change, reduction

    def cross(self, p: Tensor, V: Tensor) -> Tensor:
        """Return V diag(p) H', (k, rows): sum_o g_bjo Y_obv with Y_obv = sum_i P_oi x_bi V_voi."""
        B, d, out = self.G.shape
        if d <= FEW:
            return DenseBlock(self.dense()).cross(p, V)
        P, columns = p.view(out, -1), V.unflatten(1, (out, -1)).transpose(0, 1)
        step = max(1, chunk_elements(p) // max(self.X.numel(), 0 if V.dtype == p.dtype else columns[0].numel()))
        parts = [
            torch.bmm(P[o : o + step].unsqueeze(1) * self.X, columns[o : o + step].to(p.dtype).mT)
            for o in range(0, out, step)
        ]
        return torch.einsum("obk,bdo->kbd", torch.cat(parts), self.G).reshape(len(V), B * d)

    def combine(self, C: Tensor, out: Tensor) -> None:
        """Write CH to ``out``, (j, n_i): row j is sum_b (C_jb G_b) x_b'."""
        for weights, row in zip(self._by_output(C).unbind(1), out, strict=True):
            torch.mm(weights.mT, self.X, out=row.view(self.G.shape[2], -1))

    def squares(self, C: Tensor, out: Tensor) -> None:
        """Write the diagonal of H'C'CH to ``out``, (n_i,)."""
        self._add_squares(self._by_output(C), out.view(self.G.shape[2], -1).zero_())

    def dense(self) -> Tensor:
        """Return the block as a matrix, (rows, out * in)."""
        B, d, _ = self.G.shape
        return (self.G.unsqueeze(-1) * self.X[:, None, None]).reshape(B * d, -1)

    def columns(self, inside: slice) -> list[tuple[slice, Block]]:
        """Return a stretch of the block in at most three parts: the end of a row, whole rows, the beginning of one.

        Args:
            inside: Columns of the block.

        Returns:
            Each with the part of the stretch that it covers.
        """
        width, start, stop = self.X.shape[1], inside.start, inside.stop
        first = min(-(-start // width) * width, stop)
        parts: list[tuple[slice, Block]] = []
        for a, b in pairwise([start, first, max(first, stop // width * width), stop]):
            if a < b:
                G = self.G[..., a // width : (b - 1) // width + 1]
                X = self.X[:, a % width : (b - 1) % width + 1]
                parts.append((slice(a - start, b - start), OuterProduct(G, X)))
        return parts

    def _by_output(self, C: Tensor) -> Tensor:
        """Return C_b G_b of every sample for combinations C of the rows, (k, rows), as (B, k, out)."""
        B, d, _ = self.G.shape
        return C.view(-1, B, d).transpose(0, 1) @ self.G

    def _add_squares(self, A: Tensor, out: Tensor) -> None:
        """Add sum_bc M_bco x_bi x_ci with M_bco = sum_k A_bko A_cko to ``out``, (out, in), for A (B, k, out)."""
        by_output, start = A.permute(2, 0, 1), 0
        M = (by_output @ by_output.mT).permute(1, 2, 0).reshape(len(A) ** 2, -1)
        for pairs in self._pairs():
            out.addmm_(M[start : start + len(pairs)].mT, pairs)
            start += len(pairs)

    def _pairs(self) -> Iterator[Tensor]:
        """Return x_b * x_c for all pairs (b, c), in chunks of pairs, (pairs, in)."""
        B, width = self.X.shape
        step = max(1, chunk_elements(self.X) // (width * B))
        for start in range(0, B, step):
            yield (self.X[start : start + step].unsqueeze(1) * self.X).reshape(-1, width)


class BlockJacobian:
    """The whole Jacobian as blocks over consecutive slices of the state.

    Args:
        blocks: Each block with the slice of the state it covers; together they cover it once.
    """

    def __init__(self, blocks: list[tuple[slice, Block]]) -> None:
        self.blocks = blocks

    def gram(self, p: Tensor) -> Tensor:
        """Return H diag(p) H', (rows, rows)."""
        first, *rest = (block.gram(p[columns]) for columns, block in self.blocks)
        return sum(rest, start=first)

    def update(self, p: Tensor, gain: Gain, out: Pair | None = None) -> Pair:
        """Return Ke and diag(KH) p over the whole state, each (n,)."""
        change, reduction = out or (torch.empty_like(p), torch.empty_like(p))
        for columns, block in self.blocks:
            block.update(p[columns], gain, (change[columns], reduction[columns]))
        return change, reduction

    def cross(self, p: Tensor, V: Tensor) -> Tensor:
        """Return V diag(p) H', (k, rows), for V (k, n)."""
        first, *rest = (block.cross(p[columns], V[:, columns]) for columns, block in self.blocks)
        return sum(rest, start=first)

    def combine(self, C: Tensor, out: Tensor | None = None) -> Tensor:
        """Return CH, (j, n), for combinations C of the rows, (j, rows)."""
        out = C.new_empty(len(C), self.blocks[-1][0].stop) if out is None else out
        for columns, block in self.blocks:
            block.combine(C, out[:, columns])
        return out

    def squares(self, C: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the diagonal of H'C'CH, (n,)."""
        out = C.new_empty(self.blocks[-1][0].stop) if out is None else out
        for columns, block in self.blocks:
            block.squares(C, out[columns])
        return out

    def dense(self) -> Tensor:
        """Return the whole Jacobian as a matrix, (rows, n)."""
        return torch.cat([block.dense() for _, block in self.blocks], dim=1)


def chunk_elements(like: Tensor) -> int:
    """Return the most elements of a temporary, on the device of this tensor."""
    return CHUNK_ELEMENTS if like.device.type == "cpu" else 256 * CHUNK_ELEMENTS
