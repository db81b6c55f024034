r"""Posterior predictive probabilities of the classes, averaged over the uncertainty of the outputs.

The outputs are z ~ N(mu, C). A network is not linear, so that the order of the filter's variances is informative and
their scale often is not: predictions are a mixture over several scales of C (tempering), weighted by the probability
that each gave to the labels so far (:func:`update_log_weights`).

Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates, ``K`` scales of C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..constants import constant
from ..likelihoods.categorical import predictive_probabilities
from .equations import own_blocks

SCALES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Scales of C in the mixture; 0 is the plain softmax, 1 the posterior as it is."""

DISCOUNT = 0.999
"""Per-sample discount of the accumulated log evidence."""


def output_covariance(HPH: Tensor, cotangents: Tensor, foreseen: Tensor | None = None) -> Tensor:
    """Return C of every sample, (B, m, m), given that of all samples' coordinates, which are orthogonal.

    Args:
        HPH: (B*d, B*d).
        cotangents: The coordinates' derivatives with respect to the outputs, (B, d, m).
        foreseen: Orthonormal directions of the coordinates, (B, j, d), in which alone C is to be known: a prediction
            must not see which coordinates the target has chosen. All by default.
    """
    own = own_blocks(HPH, cotangents.shape[1]).to(cotangents.dtype)
    if foreseen is not None:
        M = foreseen.to(cotangents.dtype)
        own, cotangents = M @ own @ M.mT, M @ cotangents
    back = cotangents / cotangents.square().sum(-1, keepdim=True)
    return back.mT @ own @ back


def scaled_predictive(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the posterior predictive probabilities for C times each of ``SCALES``, (K, B, m)."""
    scales = constant(SCALES, covariance.dtype, covariance.device).view(-1, 1, 1, 1)
    K, shape = len(SCALES), covariance.shape
    every = predictive_probabilities(mean.expand(K, -1, -1).flatten(0, 1), (scales * covariance).flatten(0, 1))
    return every.view(K, *shape[:2])


def tempered_predictive(mean: Tensor, covariance: Tensor, log_weights: Tensor) -> Tensor:
    """Return the mixture over the scales of C, (B, m).

    Args:
        mean: Logits mu, (B, m).
        covariance: C, (B, m, m).
        log_weights: Logarithms of the scales' weights, up to a constant, (K,).
    """
    weights = log_weights.softmax(0).to(covariance.dtype)
    return torch.einsum("k,kbm->bm", weights, scaled_predictive(mean, covariance))


def update_log_weights(
    log_weights: Tensor, mean: Tensor, covariance: Tensor, classes: Tensor, discount: float = DISCOUNT
) -> Tensor:
    r"""Return the scales' log weights after a batch, (K,): each gains the log-probability it gave to the labels.

    .. math:: w_k \leftarrow \gamma^B w_k + \sum_b \ln p_k(y_b)

    Without discount the mixture's log loss over n samples exceeds that of the best scale, which may be the softmax, by
    ln(K) / n at most (Vovk 1990).

    Args:
        log_weights: Those before, (K,).
        mean: Logits mu, (B, m).
        covariance: C, (B, m, m).
        classes: Labels, (B,).
        discount: gamma.
    """
    rows = torch.arange(len(classes), device=classes.device)
    predicted = scaled_predictive(mean, covariance)[:, rows, classes].to(log_weights.dtype)
    least = torch.finfo(torch.float32).tiny
    return discount ** len(classes) * log_weights + predicted.nan_to_num(0).clamp_min(least).log().sum(1)
