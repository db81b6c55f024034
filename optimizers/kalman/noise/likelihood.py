"""The likelihood's own covariance as observation noise."""

from __future__ import annotations

from torch import Tensor

from ..parts import State
from .base import ObservationNoise


class LikelihoodCovariance(ObservationNoise):
    """R = Cov(y), diag(p) - pp' of a softmax (Ollivier 2018).

    It may be singular; see :class:`~optimizers.kalman.update.NaturalParameterUpdate` for the stable form.
    """

    name = "softmax"
    from_likelihood = True

    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Raise NotImplementedError: nothing is estimated."""
        raise NotImplementedError("softmax noise is the likelihood's own covariance")
