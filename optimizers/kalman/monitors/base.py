"""The interface of a monitor, which the step of a filter calls."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...likelihoods.base import Innovation, Observation
from ...parts import Part, State
from ..covariance.base import Covariance


class Monitor(Part, ABC):
    """A monitor of a filter's steps, which may act on its state.

    A monitor has no state of its own: what it remembers are tensors of the filter's state, which it changes in place.
    It runs where one of its options differs from its default.

    Attributes:
        raises_alarm: Whether it keeps ``alarm`` in the state where the covariance forgets on it.
        needs_precision: Whether the batch must be observed through the natural parameters.
        needs_reset: Whether the covariance must be able to reset a part of itself.
        head: Columns of the state that belong to the model's head; set by the filter.
    """

    kind = "monitor"
    raises_alarm: ClassVar[bool] = False
    needs_precision: ClassVar[bool] = False
    needs_reset: ClassVar[bool] = False
    head: Sequence[slice] = ()

    def start(self, prior: Tensor, shapes: list[torch.Size]) -> State:
        """Return what is remembered at first, given the prior variances (n,) and the shapes of the parameters."""
        return {}

    def set_prior(self, state: State, prior: Tensor) -> None:
        """Take note of prior variances (n,) that were set after the start."""

    def grow(self, state: State, kept: Tensor, prior: Tensor, head: Sequence[slice]) -> None:
        """Take note that parameters have gained rows; the arguments are those of :meth:`Covariance.grow`.

        Args:
            state: The filter's state, changed in place.
            kept: Where the entries of before are now, (n before,).
            prior: Variances of the new entries, at their places, (n,).
            head: Columns of the model's head before.
        """

    def before(self, state: State, covariance: Covariance, observation: Observation) -> None:
        """Update the monitor by a batch before its update."""

    def after(self, state: State, innovation: Innovation, HPH: Tensor) -> None:
        """Update the monitor by a batch whose update is computed but not applied; HPH' (B*d, B*d) is that before it."""

    def stats(self, state: State, innovation: Innovation) -> dict[str, Tensor]:
        """Return diagnostics for the optimizer's ``stats``."""
        return {}
