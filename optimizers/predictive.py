r"""Predictions of the mean of the outputs and of its uncertainty.

The outputs are z ~ N(mu, C). Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optimizers.kalman import own_blocks


def output_covariance(HPH: Tensor, cotangents: Tensor) -> Tensor:
    """C of every sample, (B, m, m), from that of all samples' coordinates, which are orthogonal.

    Args:
        HPH: (B*d, B*d).
        cotangents: The coordinates' derivatives with respect to the outputs, (B, d, m).
    """
    back = cotangents / cotangents.square().sum(-1, keepdim=True)
    return back.mT @ own_blocks(HPH, cotangents.shape[1]).to(back.dtype) @ back


def difference_variance(covariance: Tensor) -> Tensor:
    """s^2_kj, the variance of z_k - z_j: C_kk + C_jj - 2 C_kj; (B, m, m) -> (B, m, m)."""
    own = covariance.diagonal(dim1=1, dim2=2)
    return (own.unsqueeze(2) + own.unsqueeze(1) - covariance - covariance.mT).clamp_min(0)


def moderated_probabilities(mean: Tensor, covariance: Tensor) -> Tensor:
    r"""Probabilities of the classes, averaged over z ~ N(mu, C) by the probit approximation.

    With kappa(v) = (1 + pi v / 8)^(-1/2), the odds of every pair of classes are moderated by the variance of their
    difference (MacKay 1992; for more than two classes Lu, Ie & Sha 2020, whose sum over k is then brought to one):

    .. math:: p_k \propto \Big(\sum_j \exp(-\kappa(s_{kj}^2) (\mu_k - \mu_j))\Big)^{-1}                (2)

    Args:
        mean: Logits mu, (B, m).
        covariance: C, (B, m, m).

    Returns:
        Probabilities (B, m).
    """
    kappa = (1 + math.pi / 8 * difference_variance(covariance)).rsqrt()
    return torch.softmax(-torch.logsumexp(kappa * (mean.unsqueeze(1) - mean.unsqueeze(2)), 2), 1)
