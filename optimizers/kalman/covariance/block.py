"""Block-diagonal covariances: one block for all parameters, one a tensor, or one a neuron."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ..blocks import BlockJacobian, Gain
from ..measurement import Measurement
from .base import Correction, Covariance, State


class Part(NamedTuple):
    """A stretch of the state: ``blocks`` blocks of ``size`` parameters each, one after the other."""

    start: int
    blocks: int
    size: int

    @property
    def columns(self) -> slice:
        """Where it lies in the state."""
        return slice(self.start, self.start + self.blocks * self.size)


class BlockDiagonal(Covariance):
    """Square blocks along the diagonal of P, one tensor ``P0``, ``P1``, ... (blocks, size, size) a part.

    The classical decoupled filter (Puskorius & Feldkamp 1991); with a single block, the full extended Kalman filter.
    """

    @abstractmethod
    def layout(self) -> list[tuple[int, int]]:
        """Number and size of the blocks of every part, in the order of the state."""

    def parts(self) -> list[Part]:
        """The parts of the state."""
        parts, start = [], 0
        for blocks, size in self.layout():
            parts.append(Part(start, blocks, size))
            start += blocks * size
        return parts

    def names(self) -> list[str]:
        """P0, P1, ..., one a part."""
        return [f"P{i}" for i in range(len(self.layout()))]

    def elements(self) -> int:
        """Sum of the squared block sizes."""
        return sum(part.blocks * part.size**2 for part in self.parts())

    def start(self, prior: Tensor) -> State:
        """Diagonal blocks."""
        return {
            f"P{i}": torch.diag_embed(prior[part.columns].view(part.blocks, part.size))
            for i, part in enumerate(self.parts())
        }

    def predict(self, state: State, q: float) -> State:
        """Q on every diagonal."""
        return {name: P + q * torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) for name, P in state.items()}

    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, list[Tensor]]:
        """HPH', and PH' of every part, (blocks, size, rows)."""
        rows = H.dense()
        gram, projected = rows.new_zeros(len(rows), len(rows)), []
        for part, P in zip(self.parts(), state.values(), strict=True):
            h = rows[:, part.columns].unflatten(1, (part.blocks, part.size))
            PH = P @ h.permute(1, 2, 0)
            gram += torch.einsum("rgs,gst->rt", h, PH)
            projected.append(PH)
        return gram, projected

    def correct(
        self, state: State, H: BlockJacobian, projected: list[Tensor], gain: Gain, batch: Measurement
    ) -> Correction:
        """P <- P - (PH'W')(PH'W')' in every block, its diagonal kept positive; Ke = PH'(W'u + v)."""
        posterior, changes = {}, []
        clamped = torch.zeros((), dtype=torch.int64, device=gain.W.device)
        for (name, P), PH in zip(state.items(), projected, strict=True):
            PHW = PH @ gain.W.mT
            changes.append((PHW @ gain.u if gain.v is None else PHW @ gain.u + PH @ gain.v).flatten())
            posterior[name] = torch.baddbmm(P, PHW, PHW.mT, alpha=-1)
            variance, floor = _diagonal(posterior[name]), torch.finfo(P.dtype).eps * _diagonal(P)
            clamped += (variance < floor).sum()
            variance.copy_(torch.maximum(variance, floor))
        return Correction(torch.cat(changes), posterior, clamped)

    def variance(self, state: State) -> Tensor:
        """The diagonals, joined."""
        return torch.cat([_diagonal(P).flatten() for P in state.values()])


class Full(BlockDiagonal):
    """All of P: n^2 numbers, for small states."""

    def layout(self) -> list[tuple[int, int]]:
        """One block."""
        return [(1, self.n)]


class PerTensor(BlockDiagonal):
    """A block for every parameter tensor."""

    def layout(self) -> list[tuple[int, int]]:
        """One block a tensor."""
        return [(1, math.prod(shape)) for shape in self.shapes]


class PerNeuron(BlockDiagonal):
    """A block for the weights into every output of a layer (Murtuza & Chorian 1994); vectors keep their diagonal."""

    def layout(self) -> list[tuple[int, int]]:
        """One block for every index of a tensor's first dimension."""
        return [(shape[0], math.prod(shape[1:])) if shape else (1, 1) for shape in self.shapes]


def _diagonal(P: Tensor) -> Tensor:
    return P.diagonal(dim1=-2, dim2=-1)
