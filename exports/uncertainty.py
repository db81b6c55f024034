r"""What the filter's covariance P of the parameters says about the outputs.

To first order the outputs are z ~ N(mu, C) with

.. math:: C = J P J^\top, \quad J = \partial z / \partial \theta                          (1)

Shapes: ``B`` batch, ``m`` outputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from optimizers.covariance import COVARIANCES
from optimizers.filter import KalmanOptimizer
from optimizers.jacobian import JacobianBuilder

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
        self._covariance = COVARIANCES[settings.covariance](
            [param.shape for param in params], settings.rank, settings.buffer, settings.keep
        )
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
            own = torch.arange(B, device=gram.device)
            return gram.view(B, m, B, m)[own, :, own]


def difference_variance(covariance: Tensor) -> Tensor:
    """Variance of z_1 - z_0: C_11 + C_00 - 2 C_01; C (B, 2, 2) -> (B,)."""
    C = covariance
    return (C[:, 1, 1] + C[:, 0, 0] - C[:, 0, 1] - C[:, 1, 0]).clamp_min(0)


def moderated_probabilities(mean: Tensor, covariance: Tensor) -> Tensor:
    r"""Probabilities of the classes, averaged over z ~ N(mu, C) by the probit approximation.

    With kappa(v) = (1 + pi v / 8)^(-1/2), for two classes (MacKay 1992)

    .. math:: p_1 = \sigma(\kappa(s^2)\, (\mu_1 - \mu_0)), \quad s^2 = C_{11} + C_{00} - 2 C_{01}  (2)

    and for more its mean-field version (Gibbs 1998; Lu, Ie & Sha 2020), which leaves out the covariances:

    .. math:: p = \mathrm{softmax}(\kappa(C_{kk})\, \mu_k)                                (3)

    Args:
        mean: Logits mu, (B, m).
        covariance: C, (B, m, m).

    Returns:
        Probabilities (B, m).
    """
    if mean.shape[1] == 2:
        p = torch.sigmoid(_kappa(difference_variance(covariance)) * (mean[:, 1] - mean[:, 0]))
        return torch.stack([1 - p, p], dim=1)
    variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
    return torch.softmax(_kappa(variance) * mean, dim=1)


def _kappa(variance: Tensor) -> Tensor:
    return (1 + math.pi / 8 * variance).rsqrt()
