r"""What the filter's covariance P of the parameters says about the outputs.

To first order the outputs are z ~ N(mu, C) with

.. math:: C = J P J^\top, \quad J = \partial z / \partial \theta                          (1)

Shapes: ``B`` batch, ``m`` outputs.
"""

from __future__ import annotations

import torch
from filtune.optimizers.kalman.equations import own_blocks
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.jacobian import JacobianBuilder
from torch import Tensor, nn

MOST_ELEMENTS = 1 << 26
"""Most elements of the Jacobian of one batch."""


class OutputCovariance:
    """Equation (1), by the covariance's own product.

    Args:
        optimizer: A filter.
        model: The model it has trained.
    """

    def __init__(self, optimizer: KalmanOptimizer, model: nn.Module) -> None:
        params, settings = list(optimizer.trained()), optimizer.settings
        self._jacobian = JacobianBuilder(params, optimizer.dtype, settings.jacobian, settings.max_rows)
        self._jacobian.attach(model)
        self._covariance = settings.build_covariance([param.shape for param in params])
        self._P = self._covariance.select(optimizer.filter)

    def batch_size(self, outputs: int) -> int:
        """How many samples with m outputs a batch may have."""
        return max(1, MOST_ELEMENTS // (outputs * self._covariance.n))

    def __call__(self, outputs: Tensor) -> Tensor:
        """Outputs with their graph (B, m) -> C (B, m, m)."""
        B, m = outputs.shape
        identity = torch.eye(m, dtype=outputs.dtype, device=outputs.device).expand(B, m, m)
        with torch.no_grad():
            H = self._jacobian(outputs, identity)
            gram, _ = self._covariance.project(self._P, H)
            return own_blocks(gram, m)
