"""The diagonal covariance of both papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...parts import State
from ..blocks import BlockJacobian, Gain
from ..equations import posterior_variance
from ..update import MeasurementUpdate
from .base import Correction, Covariance


class Diagonal(Covariance):
    """Diagonal covariance, P = diag(p) with p (n,).

    Dense layers that are applied at one position never form their Jacobian.
    """

    name = "diagonal"
    by_columns = True

    def names(self) -> list[str]:
        """Return the name of the variances."""
        return ["p"]

    def elements(self) -> int:
        """Return the number of variances, n."""
        return self.n

    def start(self, prior: Tensor) -> State:
        """Return the prior."""
        return {"p": prior}

    def predict(self, state: State, q: float) -> State:
        """Return p + q."""
        return {"p": state["p"] + q}

    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, None]:
        """Return HPH' = H (p * H')."""
        return H.gram(state["p"]), None

    def correct(
        self, state: State, H: BlockJacobian, projected: None, gain: Gain, batch: MeasurementUpdate
    ) -> Correction:
        """Return the update of LoKO eqs. 11b and 11c."""
        delta, reduction = H.update(state["p"], gain)
        posterior, clamped = posterior_variance(state["p"], reduction)
        return Correction(delta, {"p": posterior}, clamped)

    def grow(self, state: State, before: Sequence[torch.Size], kept: Tensor, prior: Tensor) -> State:
        """Return the variances, those of new entries from the prior."""
        return {"p": prior.index_copy(0, kept, state["p"])}

    def variance(self, state: State) -> Tensor:
        """Return the variances."""
        return state["p"]
