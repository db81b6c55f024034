r"""Filter consistency check: normalised innovation squared (NIS).

With e the innovation of a sample, S its covariance as the filter predicts it and d its coordinates,

.. math:: \text{NIS} = e^\top S^{-1} e / d

has mean one where the filter is consistent (Bar-Shalom, Li & Kirubarajan 2001, section 5.4). Above, the filter is
overconfident: the stream has changed, or the noise is larger than assumed.

Shapes: ``B`` batch, ``d`` observation coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...base import check_arguments
from ...likelihoods.base import Innovation
from ...parts import State
from ..equations import block_diagonal, robust_cholesky
from .base import Monitor

MOST = 25.0
"""Largest NIS of one step in the average: a class predicted as impossible would otherwise dominate it for long."""

LIMIT = 3.29
"""Standard normal quantile of the interval's bounds: a consistent filter is outside it one time in a thousand."""


class NIS(Monitor):
    """Average NIS of the last steps, with the interval in which it is for a consistent filter.

    State: ``nis``, the last values (nis_window,), and ``alarm``, whether their mean is above the interval.

    Args:
        nis_window: Steps that are averaged; 0 for none.

    Raises:
        ValueError: If it is negative.
    """

    name = "nis"
    raises_alarm = True
    needs_precision = True

    def __init__(self, *, nis_window: int = 0) -> None:
        check_arguments("", [("nis_window", nis_window, nis_window >= 0, "be zero or positive")])
        self.window = nis_window

    def start(self, prior: Tensor, shapes: list[torch.Size]) -> State:
        """Return the window before there are values: all as expected."""
        return {"nis": prior.new_ones(self.window)}

    def after(self, state: State, innovation: Innovation, HPH: Tensor) -> None:
        """Put the step's NIS into the window and compare the mean with the interval."""
        value = normalised_innovation_squared(innovation, HPH)
        state["nis"] = remember(state["nis"], state["steps"], value)
        state["alarm"] = state["nis"].mean() > self._interval(innovation)[1]

    def stats(self, state: State, innovation: Innovation) -> dict[str, Tensor]:
        """Return ``nis`` and the interval's bounds."""
        low, high = map(torch.tensor, self._interval(innovation))
        return {"nis": state["nis"].mean(), "nis_low": low, "nis_high": high}

    def _interval(self, innovation: Innovation) -> tuple[float, float]:
        return interval(self.window * coordinates(innovation))


def acknowledge(state: State) -> Tensor:
    """Return the alarm, (), and restart the average where it is raised."""
    alarm = state["alarm"]
    state["nis"] = torch.where(alarm, torch.ones_like(state["nis"]), state["nis"])
    return alarm


def normalised_innovation_squared(innovation: Innovation, A: Tensor) -> Tensor:
    """Return NIS, averaged over the batch, ().

    Args:
        innovation: The batch, observed through the natural parameters: its noise is F and its Jacobian FJ.
        A: JPJ' before the update, (B*d, B*d).
    """
    assert innovation.factor is not None
    e, L = innovation.residual.flatten().double(), block_diagonal(innovation.factor.double())
    S = L @ L.mT + L @ (L.mT @ A.double() @ L) @ L.mT
    return (robust_cholesky(S).inverse @ e).square().sum() / coordinates(innovation)


def coordinates(innovation: Innovation) -> int:
    """Return the number of coordinates of a batch, including those that were left out.

    Whatever classes are distinguished, the label is one of them, so that e'F^-1 e is 1 / p_y - 1 at most, as with all
    of them, and that has the mean m - 1 over the labels.
    """
    samples, observed = innovation.residual.shape
    return samples * (observed + innovation.left_out)


def remember(values: Tensor, step: Tensor, value: Tensor) -> Tensor:
    """Return the window (w,) with the value of step number ``step`` in place of the oldest."""
    position = (step % len(values)).view(1)
    return values.index_copy(0, position, value.nan_to_num(MOST).clamp_max(MOST).to(values.dtype).view(1))


def interval(coordinates: int) -> tuple[float, float]:
    """Return bounds of the average NIS of a consistent filter, chi-square with that many coordinates in all.

    By the cube-root approximation of Wilson and Hilferty (1931).
    """
    variance = 2 / (9 * coordinates)
    low, high = ((1 - variance + sign * LIMIT * variance**0.5) for sign in (-1, 1))
    return max(low, 0.0) ** 3, high**3
