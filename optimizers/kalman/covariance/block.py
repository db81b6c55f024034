"""Block-diagonal covariances: one block for all parameters, one per tensor, or one per neuron."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...parts import State
from ..blocks import BlockJacobian, Gain
from ..update import MeasurementUpdate
from .base import Correction, Covariance


class Stretch(NamedTuple):
    """A stretch of the state: ``blocks`` blocks of ``size`` parameters each, one after the other."""

    start: int
    blocks: int
    size: int

    @property
    def columns(self) -> slice:
        """Columns of the state that belong to the block."""
        return slice(self.start, self.start + self.blocks * self.size)


class BlockDiagonal(Covariance):
    """Square blocks along the diagonal of P, one tensor ``P0``, ``P1``, ... (blocks, size, size) per stretch.

    The classical decoupled filter (Puskorius & Feldkamp 1991); with a single block, the full extended Kalman filter.
    """

    jacobian_copies = 2  # as a matrix, and PH'

    @abstractmethod
    def layout(self) -> list[tuple[int, int]]:
        """Return the number and size of the blocks of every stretch, in the order of the state."""

    def stretches(self) -> list[Stretch]:
        """Return the stretches of the state."""
        stretches, start = [], 0
        for blocks, size in self.layout():
            stretches.append(Stretch(start, blocks, size))
            start += blocks * size
        return stretches

    def names(self) -> list[str]:
        """Return P0, P1, ..., one per stretch."""
        return [f"P{i}" for i in range(len(self.layout()))]

    def elements(self) -> int:
        """Return the sum of the squared block sizes."""
        return sum(stretch.blocks * stretch.size**2 for stretch in self.stretches())

    def start(self, prior: Tensor) -> State:
        """Return diagonal blocks."""
        return {
            f"P{i}": torch.diag_embed(prior[stretch.columns].view(stretch.blocks, stretch.size))
            for i, stretch in enumerate(self.stretches())
        }

    def predict(self, state: State, q: float) -> State:
        """Return the blocks with q added to every diagonal."""
        return {name: P + q * torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) for name, P in state.items()}

    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, list[Tensor]]:
        """Return HPH', and PH' of every stretch, (blocks, size, rows)."""
        rows = H.dense()
        gram, projected = rows.new_zeros(len(rows), len(rows)), []
        for stretch, P in zip(self.stretches(), state.values(), strict=True):
            h = rows[:, stretch.columns].unflatten(1, (stretch.blocks, stretch.size))
            PH = P @ h.permute(1, 2, 0)
            gram += torch.einsum("rgs,gst->rt", h, PH)
            projected.append(PH)
        return gram, projected

    def correct(
        self, state: State, H: BlockJacobian, projected: list[Tensor], gain: Gain, batch: MeasurementUpdate
    ) -> Correction:
        """Return P - (PH'W')(PH'W')' in every block, its diagonal kept positive, and Ke = PH'(W'u + v)."""
        posterior, deltas = {}, []
        clamped = torch.zeros((), dtype=torch.int64, device=gain.W.device)
        for (name, P), PH in zip(state.items(), projected, strict=True):
            PHW = PH @ gain.W.mT
            deltas.append((PHW @ gain.u if gain.v is None else PHW @ gain.u + PH @ gain.v).flatten())
            posterior[name] = torch.baddbmm(P, PHW, PHW.mT, alpha=-1)
            variance, floor = _diagonal(posterior[name]), torch.finfo(P.dtype).eps * _diagonal(P)
            clamped += (variance < floor).sum()
            variance.copy_(torch.maximum(variance, floor))
        return Correction(torch.cat(deltas), posterior, clamped)

    def grow(self, state: State, before: Sequence[torch.Size], kept: Tensor, prior: Tensor) -> State:
        """Return blocks with diagonal ones for new rows: appended to a block, or blocks of their own."""
        former, grown = type(self)(before), self.start(prior)
        for i, (old, new) in enumerate(zip(former.stretches(), self.stretches(), strict=True)):
            P = state[f"P{i}"]
            inside = kept[old.columns].to(P.device) - new.start
            if old.size == new.size:
                grown[f"P{i}"][: old.blocks] = P
            else:
                grown[f"P{i}"][0, inside.unsqueeze(1), inside] = P[0]
        return grown

    def variance(self, state: State) -> Tensor:
        """Return the diagonals, joined."""
        return torch.cat([_diagonal(P).flatten() for P in state.values()])


class Full(BlockDiagonal):
    """Full covariance: n^2 numbers, for small states."""

    name = "full"

    def layout(self) -> list[tuple[int, int]]:
        """Return one block."""
        return [(1, self.n)]


class PerTensor(BlockDiagonal):
    """One block per parameter tensor."""

    name = "block_per_tensor"

    def layout(self) -> list[tuple[int, int]]:
        """Return one block per tensor."""
        return [(1, math.prod(shape)) for shape in self.shapes]


class PerNeuron(BlockDiagonal):
    """One block for the weights into every output of a layer (Murtuza & Chorian 1994); vectors keep their diagonal."""

    name = "block_per_neuron"

    def layout(self) -> list[tuple[int, int]]:
        """Return one block for every index of a tensor's first dimension."""
        return [(shape[0], math.prod(shape[1:])) if shape else (1, 1) for shape in self.shapes]


def _diagonal(P: Tensor) -> Tensor:
    return P.diagonal(dim1=-2, dim2=-1)
