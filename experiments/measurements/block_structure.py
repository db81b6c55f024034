"""Measures of how near a covariance is to block-diagonal.

Blocks are given as labels, (n,): two parameters of one label share a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from filtune.optimizers.kalman.covariance.block import PerNeuron, PerTensor
from torch import Tensor

PARTITIONS = {"tensor": PerTensor, "neuron": PerNeuron}


def block_labels(shapes: Sequence[torch.Size], partition: str) -> Tensor:
    """Return the block of every parameter, (n,), as the block-diagonal filters have them.

    Args:
        shapes: The parameters' shapes.
        partition: One block per ``tensor``, or per ``neuron``, an output of a layer.
    """
    blocks = [part for part in PARTITIONS[partition](shapes).stretches() for _ in range(part.blocks)]
    return torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor([part.size for part in blocks]))


def correlation(P: Tensor) -> Tensor:
    """Return diag(P)^-1/2 P diag(P)^-1/2, (n, n)."""
    scale = P.diagonal().rsqrt()
    return scale.unsqueeze(1) * P * scale


def outside(M: Tensor, blocks: Tensor | None = None) -> float:
    """Return the share of the squared Frobenius norm of M outside the blocks, or off the diagonal where there are none.

    Zero for a block-diagonal matrix.
    """
    squares = M.square()
    same = torch.eye(len(M), dtype=torch.bool) if blocks is None else _same(blocks)
    return float((squares * ~same).sum() / squares.sum())


def concentration(M: Tensor, blocks: Tensor) -> float:
    """Return the mean square of the entries within the blocks over that of all, both off the diagonal.

    One where the blocks mean nothing, or M is diagonal; n (n - 1) / sum_b n_b (n_b - 1) where M is block-diagonal.
    """
    squares = M.square() - torch.diag(M.diagonal().square())
    within = _same(blocks).fill_diagonal_(False)
    total, n = squares.sum(), len(M)
    if not total:
        return 1.0
    return float((squares * within).sum() / within.sum() * (n * (n - 1)) / total)


def measures(P: Tensor, partitions: dict[str, Tensor]) -> dict[str, float]:
    """Return all of these of a covariance and its correlation.

    Args:
        P: Covariance, (n, n).
        partitions: Blocks by name.
    """
    C, n = correlation(P), len(P)
    mean_square = (float(C.square().sum()) - n) / (n * (n - 1))
    found = {"rms_correlation": max(mean_square, 0.0) ** 0.5, "mean_variance": float(P.diagonal().mean())}
    for kind, M in (("covariance", P), ("correlation", C)):
        found[f"{kind}_outside_diagonal"] = outside(M)
        for name, blocks in partitions.items():
            found[f"{kind}_outside_{name}"] = outside(M, blocks)
            found[f"{kind}_concentration_{name}"] = concentration(M, blocks)
    return found


def _same(blocks: Tensor) -> Tensor:
    return blocks.unsqueeze(0) == blocks.unsqueeze(1)
