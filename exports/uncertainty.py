r"""Covariance of the outputs that follows from the filter's covariance P of the parameters.

To first order the outputs are z ~ N(mu, C) with

.. math:: C = J P J^\top, \quad J = \partial z / \partial \theta                          (1)

Shapes: ``B`` batch, ``m`` outputs.
"""

from __future__ import annotations

from filtune.optimizers.kalman.filter import KalmanOptimizer
from torch import Tensor, nn

MOST_ELEMENTS = 1 << 26
"""Most elements of the Jacobian of one batch."""


class OutputCovariance:
    """Equation (1), computed by the filter itself.

    Args:
        optimizer: A filter.
        model: The model it has trained.
    """

    def __init__(self, optimizer: KalmanOptimizer, model: nn.Module) -> None:
        self._optimizer = optimizer.attach(model)
        self._parameters = sum(param.numel() for param in optimizer.trained())

    def batch_size(self, outputs: int) -> int:
        """Return how many samples with m outputs a batch may have."""
        return max(1, MOST_ELEMENTS // (outputs * self._parameters))

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return the covariance C (B, m, m) of outputs with their graph (B, m)."""
        return self._optimizer.output_covariance(outputs)
