"""P = diag(p), as in both papers."""

from __future__ import annotations

from torch import Tensor

from ..blocks import BlockJacobian, Gain
from ..equations import posterior_variance
from ..measurement import Measurement
from .base import Correction, Covariance, State


class Diagonal(Covariance):
    """The variances alone, ``p`` (n,). Dense layers seen at one position never form their Jacobian."""

    by_columns = True

    def names(self) -> list[str]:
        """The variances."""
        return ["p"]

    def elements(self) -> int:
        """N."""
        return self.n

    def start(self, prior: Tensor) -> State:
        """The prior."""
        return {"p": prior}

    def predict(self, state: State, q: float) -> State:
        """P + q."""
        return {"p": state["p"] + q}

    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, None]:
        """HPH' = H (p * H')."""
        return H.gram(state["p"]), None

    def correct(self, state: State, H: BlockJacobian, projected: None, gain: Gain, batch: Measurement) -> Correction:
        """LoKO eqs. 11b and 11c."""
        change, reduction = H.update(state["p"], gain)
        posterior, clamped = posterior_variance(state["p"], reduction)
        return Correction(change, {"p": posterior}, clamped)

    def variance(self, state: State) -> Tensor:
        """The variances."""
        return state["p"]
