r"""Is the filter as certain as it is right? The normalised innovation squared.

With e the innovation of a sample, S its covariance as the filter predicts it and d its coordinates,

.. math:: \text{NIS} = e^\top S^{-1} e / d

has mean one where the filter is consistent (Bar-Shalom, Li & Kirubarajan 2001, section 5.4). Above, it is too certain:
the world has changed, or the noise is larger than it thinks.
"""

from __future__ import annotations

from torch import Tensor

from ..likelihoods.base import Innovation
from .cholesky import robust_cholesky
from .measurement import block_diagonal

MOST = 25.0
"""Most that one step counts for in the average: a class held impossible would otherwise fill it for long."""

LIMIT = 3.29
"""Standard normal quantile of the band's edges: a consistent filter is outside of it one time in a thousand."""


def normalised_innovation_squared(innovation: Innovation, A: Tensor) -> Tensor:
    """NIS, averaged over the batch, ().

    Args:
        innovation: The batch, observed through the natural parameters: its noise is F and its Jacobian FJ.
        A: JPJ' before the update, (B*d, B*d).
    """
    assert innovation.factor is not None
    e, L = innovation.residual.flatten().double(), block_diagonal(innovation.factor.double())
    S = L @ L.mT + L @ (L.mT @ A.double() @ L) @ L.mT
    return (robust_cholesky(S).inverse @ e).square().sum() / coordinates(innovation)


def coordinates(innovation: Innovation) -> int:
    """How many a batch has, those that were left out with them.

    Whatever classes are told apart, the label is one of them, so that e'F^-1 e is 1 / p_y - 1 at most, as with all of
    them, and that has the mean m - 1 over the labels.
    """
    samples, observed = innovation.residual.shape
    return samples * (observed + innovation.left_out)


def start(window: int, like: Tensor) -> Tensor:
    """The last ``window`` values before there are any: all as expected, (window,)."""
    return like.new_ones(window)


def remember(values: Tensor, step: Tensor, value: Tensor) -> Tensor:
    """The last values with that of step number ``step``, in place of the oldest."""
    place = (step % len(values)).view(1)
    return values.index_copy(0, place, value.nan_to_num(MOST).clamp_max(MOST).to(values.dtype).view(1))


def band(coordinates: int) -> tuple[float, float]:
    """Edges of what the average of NIS may be in a consistent filter, chi-square with that many coordinates in all.

    By the cube-root approximation of Wilson and Hilferty (1931).
    """
    spread = 2 / (9 * coordinates)
    low, high = ((1 - spread + sign * LIMIT * spread**0.5) for sign in (-1, 1))
    return max(low, 0.0) ** 3, high**3
