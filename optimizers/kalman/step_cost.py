"""The cost of a step with many classes, reported before the first one.

A sample of m classes has m - 1 rows of the Jacobian, one backward pass and one vector over the state each; the algebra
in the space of the B (m - 1) rows takes the cube of their number.
"""

from __future__ import annotations

import time
import warnings

import torch

from ..distributed import Ranks
from .covariance.base import GIB, Covariance, available_memory

MANY = 256
"""Number of rows of a step from which on its cost is reported."""

MATRICES = 4
"""Matrices in float64 of the size of HPH' that every update holds at once, its factor and inverse among them; on a
GPU more, for all jitters are factorised at once."""

SAMPLE = 256
"""Rows of the factorisation that is timed."""


def step_bytes(rows: int, elements: int, covariance: Covariance, element_size: int) -> int:
    """Return the least memory that a step takes: the Jacobian as it is kept, its copies, and the algebra on the rows.

    Args:
        rows: Rows of a batch, B*d.
        elements: Elements of the Jacobian's blocks, of which those of large dense layers are kept in factors.
        covariance: The filter's covariance.
        element_size: Bytes of an element of the Jacobian.
    """
    copies = covariance.jacobian_copies * rows * covariance.n
    return (elements + copies) * element_size + MATRICES * rows**2 * torch.float64.itemsize


def announce_cost(
    name: str, rows: int, d: int, elements: int, covariance: Covariance, like: torch.Tensor, remedy: str
) -> None:
    """Warn what a step will cost, where its rows are many; refuse it where they do not fit into memory.

    Where several processes learn together, the one with the least memory for its part decides for all of them.

    Args:
        name: Name of the optimizer.
        rows: Rows of a batch, B*d.
        d: Rows of a sample.
        elements: Elements of the Jacobian's blocks.
        covariance: The filter's covariance.
        like: A tensor of the Jacobian's floating type, on its device.
        remedy: What reduces the number of rows.

    Raises:
        ValueError: If they are larger than the memory.
    """
    if rows < MANY:
        return
    ranks, size = Ranks.current(), step_bytes(rows, elements, covariance, like.element_size())
    sizes, limits = (ranks.integers(value, like.device) for value in (size, available_memory(like.device)))
    size, available = min(zip(sizes, limits, strict=True), key=lambda pair: pair[1] - pair[0])
    what = f"{name}: {rows:,} rows of the Jacobian per step ({d:,} per sample) over {covariance.n:,} parameters"
    if size > available:
        raise ValueError(f"{what} take {size / GIB:,.1f} GiB of {available / GIB:,.1f} GiB of memory; {remedy}")
    seconds = covariance.factorisations * factorisation_seconds(rows, like.device)
    took = f"about {seconds:,.0f} s" if seconds >= 1 else "less than a second"
    needs = f"{rows:,} backward passes and {size / GIB:,.2f} GiB, and the algebra {took} a step"
    warnings.warn(f"{what}: they take {needs}; {remedy}", stacklevel=2)


def factorisation_seconds(rows: int, device: torch.device) -> float:
    """Return about how long a Cholesky factorisation in float64 takes, from the time of a small one."""
    A = 2 * torch.eye(SAMPLE, dtype=torch.float64, device=device)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        bool(torch.linalg.cholesky_ex(A).info)  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds) * (rows / SAMPLE) ** 3
