"""The columns of a state, divided over several processes.

Every rank differentiates samples of its own, so that rows of the Jacobian H are computed where the samples are, with
all n columns. They are exchanged: every rank ends with its own columns of the rows of all samples, in the order of the
ranks. HPH' is then a sum over the ranks, the gain the same on all of them, and each rank updates its own columns.

Shapes: ``rows`` = B*d, one a sample of any rank and observation coordinate; ``n`` state.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed import Ranks
from ..likelihoods.base import Observation
from .blocks import Block, BlockJacobian, DenseBlock, OuterProduct

Parts = list[tuple[slice, Block]]

SMALL = 1000
"""Number of columns whose distribution makes no difference."""


class Sharding:
    """The columns of a state that are this rank's; with one process, all.

    Every stratum of the state, a large tensor or a run of small ones, is divided evenly. So is H then, whichever of
    the tensors it holds in factors.

    Args:
        sizes: Number of columns of every parameter tensor.
        divided: Whether the columns are divided; otherwise every rank has all of them, and all compute the same.

    Raises:
        ValueError: If there are more ranks than columns.
    """

    def __init__(self, sizes: Sequence[int], divided: bool) -> None:
        self.n, self.ranks = sum(sizes), Ranks.current()
        self.divided = divided and self.ranks.world > 1
        if self.divided and self.n < self.ranks.world:
            raise ValueError(
                f"trainer.devices: {self.n} parameters cannot be divided over {self.ranks.world} processes"
            )
        self.strata = strata(sizes, self.ranks.world) if self.divided else [slice(0, self.n)]

    def share(self, rank: int) -> list[slice]:
        """Return the columns of a rank: a stretch of every stratum, as even as possible."""
        world = self.ranks.world if self.divided else 1
        rank = rank if self.divided else 0
        lengths = [(s.start, s.stop - s.start) for s in self.strata]
        return [slice(at + k * rank // world, at + k * (rank + 1) // world) for at, k in lengths]

    def width(self, rank: int) -> int:
        """Return the number of columns of a rank."""
        return sum(stretch.stop - stretch.start for stretch in self.share(rank))

    def join(self, observation: Observation) -> tuple[Observation, list[int]]:
        """Return the observation of all ranks' samples, and how many each rank has.

        Raises:
            ValueError: If the processes are not those over which the state was divided.
        """
        now = Ranks.current()
        if now != self.ranks:
            raise ValueError(
                f"the optimizer was built for {self.ranks.world} processes, now there are {now.world}: build it after "
                "torch.distributed.init_process_group"
            )
        return self.ranks.join(observation)

    def part(self, whole: Tensor) -> Tensor:
        """Return this rank's part of a vector over the state."""
        return torch.cat([whole[stretch] for stretch in self.share(self.ranks.rank)]) if self.divided else whole

    def sum(self, partial: Tensor) -> Tensor:
        """Return the sum over all columns, given each rank's sum over its own."""
        return self.ranks.sum(partial) if self.divided else partial

    def whole(self, part: Tensor) -> Tensor:
        """Return a vector over the state, (n,), given each rank's part of it."""
        if not self.divided:
            return part
        ranks = range(self.ranks.world)
        (joined,) = self.ranks.gather([part], [self.width(rank) for rank in ranks])
        whole, start = torch.empty_like(joined), 0
        for stretch in (stretch for rank in ranks for stretch in self.share(rank)):
            end = start + stretch.stop - stretch.start
            whole[stretch], start = joined[start:end], end
        return whole

    def agree(self, finite: Tensor, clamped: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether the update of all columns is finite, and how many were raised to the lower bound."""
        if not self.divided:
            return finite, clamped
        failed, clamped = self.ranks.sum(torch.stack([(~finite).long(), clamped]))
        return failed == 0, clamped

    def exchange(self, H: BlockJacobian, sizes: Sequence[int]) -> BlockJacobian:
        """Exchange this rank's samples with all columns for all samples with this rank's columns.

        Matrices travel to their columns' owners. Of a dense layer's block the factors go to all ranks, and each
        keeps what makes up its own columns.

        Args:
            H: Jacobian of this rank's samples, (sizes[rank] * d, n); it is consumed, to hold it in memory only twice.
            sizes: Number of samples of every rank.

        Returns:
            The Jacobian of all samples over this rank's columns, (rows, n_own).
        """
        if self.ranks.world == 1:
            return H
        blocks, H.blocks = self._agreed(H.blocks), []
        plan = [(covered, isinstance(block, OuterProduct)) for covered, block in blocks]
        layers = [block for _, block in blocks if isinstance(block, OuterProduct)]
        factors = self.ranks.gather([factor for layer in layers for factor in (layer.G, layer.X)], sizes)
        joined = map(OuterProduct, factors[::2], factors[1::2])
        matrices = [(covered, block.dense()) for covered, block in blocks if not isinstance(block, OuterProduct)]
        del blocks
        columns = self._to_owners(matrices, sizes) if matrices else None

        parts: Parts = []
        start = 0
        for covered, factored in plan:
            layer = next(joined) if factored else None
            for stretch in self.share(self.ranks.rank):
                inside = _inside(covered, stretch)
                width = inside.stop - inside.start
                if layer is not None:
                    parts += [(slice(start + c.start, start + c.stop), piece) for c, piece in layer.columns(inside)]
                elif columns is not None and width:
                    parts.append((slice(start, start + width), DenseBlock(columns[:, :width])))
                    columns = columns[:, width:]
                start += width
        return BlockJacobian(parts)

    def _agreed(self, blocks: Parts) -> Parts:
        """Return the blocks, as factors where all ranks have factors: each has checked layers on samples of its own."""
        first = blocks[0][1]
        device = first.G.device if isinstance(first, OuterProduct) else first.dense().device
        factored = [covered.start for covered, block in blocks if isinstance(block, OuterProduct)]
        if len(set(self.ranks.integers(zlib.crc32(repr(factored).encode()), device))) == 1:
            return blocks
        answers: list[list[int]] = [[] for _ in range(self.ranks.world)]
        dist.all_gather_object(answers, factored)
        common = set.intersection(*map(set, answers))
        return [(c, block if c.start in common else DenseBlock(block.dense())) for c, block in blocks]

    def _to_owners(self, matrices: list[tuple[slice, Tensor]], sizes: Sequence[int]) -> Tensor:
        """Send the columns of (own rows, n_i) to their ranks; return (rows, own columns), rank 0's rows first.

        The matrices are consumed.
        """
        mine = len(matrices[0][1])
        rows = [size * (mine // sizes[self.ranks.rank]) for size in sizes]
        if not self.divided:
            return self.ranks.gather([torch.cat([H for _, H in matrices], dim=1)], rows)[0]
        shares = [self.share(rank) for rank in range(self.ranks.world)]
        sent = matrices[0][1].new_empty(sum(H.numel() for _, H in matrices))
        widths, start = [], 0
        for share in shares:
            parts = [H[:, _inside(covered, stretch)] for covered, H in matrices for stretch in share]
            widths.append(sum(part.shape[1] for part in parts))
            end = start + mine * widths[-1]
            torch.cat(parts, dim=1, out=sent[start:end].view(mine, widths[-1]))
            start = end
        del parts
        matrices.clear()
        width = widths[self.ranks.rank]
        received = sent.new_empty(sum(rows) * width)
        dist.all_to_all_single(received, sent, [r * width for r in rows], [mine * w for w in widths])
        return received.view(sum(rows), width)


def strata(sizes: Sequence[int], world: int) -> list[slice]:
    """Return the strata of a state: tensors of more than an eighth of a share, and the runs of smaller ones between.

    A tensor of fewer than ``SMALL`` columns is never a stratum of its own.
    """
    n, start, end = sum(sizes), 0, 0
    cuts = {0, n}
    for size in sizes:
        start, end = end, end + size
        if size > max(n // (8 * world), SMALL):
            cuts |= {start, end}
    return [slice(a, b) for a, b in pairwise(sorted(cuts))]


def _inside(covered: slice, stretch: slice) -> slice:
    """Return a range within a block, counted from the block's first column; empty where it is outside."""
    start = min(max(covered.start, stretch.start), covered.stop)
    stop = max(start, min(covered.stop, stretch.stop))
    return slice(start - covered.start, stop - covered.start)
