r"""Posterior predictive probabilities of the classes, averaged over the uncertainty of the outputs.

The outputs are z ~ N(mu, C). A network is not linear, so that the order of the filter's variances is informative and
their scale often is not: predictions are a mixture over several scales of C (tempering), weighted by the probability
that each gave to the labels so far (:func:`update_log_weights`).

Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates, ``K`` scales of C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..constants import constant, identity
from ..likelihoods.categorical import predictive_probabilities
from .equations import own_blocks

SCALES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Scales of C in the mixture; 0 is the plain softmax, 1 the posterior as it is."""

DISCOUNT = 0.999
"""Per-sample discount of the accumulated log evidence."""


def output_covariance(HPH: Tensor, cotangents: Tensor) -> Tensor:
    """Return C of every sample, (B, m, m), given that of all samples' coordinates, which are orthogonal.

    Args:
        HPH: (B*d, B*d).
        cotangents: The coordinates' derivatives with respect to the outputs, (B, d, m).
    """
    back = cotangents / cotangents.square().sum(-1, keepdim=True)
    return torch.bmm(torch.bmm(back.mT, own_blocks(HPH, cotangents.shape[1]).to(back.dtype)), back)


def output_factor(HPH: Tensor, cotangents: Tensor, foreseen: Tensor) -> Tensor:
    """Return G with C = GG', (B, m, j), where C is known in j directions alone.

    A prediction must not see which coordinates the target has chosen, only those that it has not.

    Args:
        HPH: (B*d, B*d).
        cotangents: Orthonormal directions of the outputs that are observed, (B, d, m).
        foreseen: Orthonormal directions of these coordinates that do not depend on the target, (B, j, d).
    """
    M = foreseen.double()
    own = torch.bmm(torch.bmm(M, own_blocks(HPH, cotangents.shape[1]).double()), M.mT)
    rounding = torch.finfo(torch.float64).eps * own.diagonal(dim1=1, dim2=2).sum(1) + torch.finfo(torch.float64).tiny
    jitter = rounding.view(-1, 1, 1) * identity(own.shape[1], own.dtype, own.device)
    root = torch.linalg.cholesky_ex(0.5 * (own + own.mT) + jitter).L
    return torch.bmm(torch.bmm(M, cotangents.double()).mT.to(cotangents.dtype), root.to(cotangents.dtype))


def scaled_predictive(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the posterior predictive probabilities for C times each of ``SCALES``, (K, B, m)."""
    scales = constant(SCALES, covariance.dtype, covariance.device).view(-1, 1, 1, 1)
    K, shape = len(SCALES), covariance.shape
    every = predictive_probabilities(mean.expand(K, -1, -1).flatten(0, 1), (scales * covariance).flatten(0, 1))
    return every.view(K, *shape[:2])


def cubature_predictive(mean: Tensor, factor: Tensor, scales: tuple[float, ...] = SCALES) -> Tensor:
    r"""Return the posterior predictive probabilities for C = GG' times each of the scales, (K, B, m).

    By the spherical-radial rule of the third degree (Arasaratnam & Haykin 2009, eq. 34), which takes O(jm):

    .. math:: \mathbb E\,\mathrm{softmax}(z) \approx \frac{1}{2j} \sum_{i=1}^{j} \sum_\pm
        \mathrm{softmax}(\mu \pm \sqrt{j a}\, G_i)

    Args:
        mean: Logits mu, (B, m).
        factor: G, (B, m, j).
        scales: Scales a of C.
    """
    spread = constant(scales, factor.dtype, factor.device).view(-1, 1, 1, 1)
    offsets = (spread * factor.shape[2]).sqrt() * factor.mT
    points = torch.cat([mean.unsqueeze(1) + offsets, mean.unsqueeze(1) - offsets], 2)
    return points.softmax(-1).mean(2)


def tempered_predictive(scaled: Tensor, log_weights: Tensor) -> Tensor:
    """Return the mixture over the scales of C, (B, m).

    Args:
        scaled: Probabilities under each scale, (K, B, m).
        log_weights: Logarithms of the scales' weights, up to a constant, (K,).
    """
    return torch.einsum("k,kbm->bm", log_weights.softmax(0).to(scaled.dtype), scaled)


def update_log_weights(log_weights: Tensor, scaled: Tensor, classes: Tensor, discount: float = DISCOUNT) -> Tensor:
    r"""Return the scales' log weights after a batch, (K,): each gains the log-probability it gave to the labels.

    .. math:: w_k \leftarrow \gamma^B w_k + \sum_b \ln p_k(y_b)

    Without discount the mixture's log loss over n samples exceeds that of the best scale, which may be the softmax, by
    ln(K) / n at most (Vovk 1990).

    Args:
        log_weights: Those before, (K,).
        scaled: Probabilities under each scale, (K, B, m).
        classes: Labels, (B,).
        discount: gamma.
    """
    rows = torch.arange(len(classes), device=classes.device)
    predicted = scaled[:, rows, classes].to(log_weights.dtype)
    least = torch.finfo(torch.float32).tiny
    return discount ** len(classes) * log_weights + predicted.nan_to_num(0).clamp_min(least).log().sum(1)
