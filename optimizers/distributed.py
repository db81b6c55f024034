"""Training in several processes: the samples of all of them are one batch, rank 0's first.

Every function is a collective that all ranks must call; with one process it returns its argument.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .likelihoods.base import Observation


@dataclass(frozen=True)
class Ranks:
    """The processes of a group.

    Args:
        world: Number of processes.
        rank: Index of this process.
    """

    world: int = 1
    rank: int = 0

    @classmethod
    def current(cls) -> Ranks:
        """Return the ranks of torch's default process group; a single one where it is not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_world_size(), dist.get_rank())

    def join(self, observation: Observation) -> tuple[Observation, list[int]]:
        """Return the observation of all ranks' samples, and how many each rank has.

        With several ranks it has no graph; with one it does.
        """
        if self.world == 1:
            return observation, [len(observation.outputs)]
        sizes = self.integers(len(observation.outputs), observation.outputs.device)
        outputs, target = self.gather([observation.outputs, observation.target], sizes)
        likelihood = copy.copy(observation.likelihood)
        likelihood.outputs = outputs
        return Observation(likelihood, target), sizes

    def own(self, sizes: Sequence[int]) -> slice:
        """Return this rank's slice of the samples of all ranks."""
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def gather(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Return the tensors of all ranks, joined along their first dimension: one collective over their bytes.

        Args:
            tensors: Each (sizes[rank], ...), the same on all ranks in the other dimensions.
            sizes: Length of the first dimension on every rank.
        """
        if self.world == 1 or not tensors:
            return list(tensors)
        flat = [as_bytes(tensor) for tensor in tensors]
        widths = [part.shape[1] for part in flat]
        packed = flat[0].new_zeros(max(sizes), sum(widths))
        packed[: len(flat[0])] = torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]
        received = packed.new_empty(self.world, *packed.shape)
        dist.all_gather(list(received.unbind()), packed)
        joined = torch.cat([part[:size] for part, size in zip(received, sizes, strict=True)])
        return [
            part.clone(memory_format=torch.contiguous_format).view(tensor.dtype).view(-1, *tensor.shape[1:])
            for part, tensor in zip(joined.split(widths, dim=1), tensors, strict=True)
        ]

    def integers(self, value: int, device: torch.device) -> list[int]:
        """Return the number of every rank."""
        return self.gather([torch.tensor([value], device=device)], [1] * self.world)[0].tolist()

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks, the same on all of them."""
        if self.world == 1:
            return tensor
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def average(self, means: Sequence[Tensor], sizes: Sequence[int]) -> None:
        """Turn means over each rank's samples into means over all samples, in place."""
        if self.world > 1:
            share = sizes[self.rank] / sum(sizes)
            total = self.sum(share * torch.cat([mean.flatten() for mean in means]))
            for mean, part in zip(means, total.split([mean.numel() for mean in means]), strict=True):
                mean.copy_(part.view_as(mean))

    def check(self, tensors: Iterable[Tensor]) -> None:
        """Check that tensors are the same on all ranks, bit for bit.

        Raises:
            ValueError: On all ranks, naming those that differ from most.
        """
        if self.world == 1:
            return
        own = torch.stack([checksum(tensor) for tensor in tensors])
        found = [tuple(row) for row in self.gather([own.unsqueeze(0)], [1] * self.world)[0].tolist()]
        usual = Counter(found).most_common(1)[0][0]
        differing = [str(rank) for rank, row in enumerate(found) if row != usual]
        if differing:
            raise ValueError(
                f"the ranks disagree: the checksum of the parameters on rank {', '.join(differing)} is not that on "
                f"rank {found.index(usual)}; usually code changed them on one rank alone, or the ranks run on "
                "different hardware or libraries; fix that and resume from the last checkpoint"
            )


def checksum(tensor: Tensor) -> Tensor:
    """Return a checksum of the bits of all elements, weighted by their positions, modulo 2^64, ()."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().flatten().view(integers[tensor.element_size()]).long()
    weights = torch.arange(len(bits), device=bits.device) * 0x5851F42D4C957F2E + 1
    return (bits * weights).sum()


def as_bytes(tensor: Tensor) -> Tensor:
    """Return a tensor (B, ...) as bytes, (B, bytes)."""
    return tensor.detach().reshape(len(tensor), math.prod(tensor.shape[1:])).contiguous().view(torch.uint8)
