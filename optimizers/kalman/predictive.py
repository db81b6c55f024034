r"""Predictions of the mean of the outputs and of its uncertainty.

The outputs are z ~ N(mu, C). The order of the filter's variances is of use, their size often is not, for a network
is not linear: how wide C is to be taken is learnt from the stream (:func:`weigh`).

Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates, ``K`` factors of C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..likelihoods.categorical import predictive_probabilities
from .equations import own_blocks

FACTORS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Times C among which the stream decides; 0 is the plain softmax, 1 the posterior as it is."""
MEMORY = 0.999
"""What the past counts for from a sample to the next, when it does."""


def output_covariance(HPH: Tensor, cotangents: Tensor) -> Tensor:
    """C of every sample, (B, m, m), from that of all samples' coordinates, which are orthogonal.

    Args:
        HPH: (B*d, B*d).
        cotangents: The coordinates' derivatives with respect to the outputs, (B, d, m).
    """
    back = cotangents / cotangents.square().sum(-1, keepdim=True)
    return back.mT @ own_blocks(HPH, cotangents.shape[1]).to(back.dtype) @ back


def factored_probabilities(mean: Tensor, covariance: Tensor) -> Tensor:
    """Moderated by C times each of ``FACTORS``, (K, B, m)."""
    factors = covariance.new_tensor(FACTORS).view(-1, 1, 1, 1)
    K, shape = len(FACTORS), covariance.shape
    every = predictive_probabilities(mean.expand(K, -1, -1).flatten(0, 1), (factors * covariance).flatten(0, 1))
    return every.view(K, *shape[:2])


def mixed_probabilities(mean: Tensor, covariance: Tensor, evidence: Tensor) -> Tensor:
    """The mixture of these by what each has foretold so far, (B, m).

    Args:
        mean: Logits mu, (B, m).
        covariance: C, (B, m, m).
        evidence: Logarithms of the weights, (K,).
    """
    weights = evidence.softmax(0).to(covariance.dtype)
    return torch.einsum("k,kbm->bm", weights, factored_probabilities(mean, covariance))


def weigh(evidence: Tensor, mean: Tensor, covariance: Tensor, classes: Tensor, memory: float = MEMORY) -> Tensor:
    r"""The factors' evidence after a batch, (K,): the log-probability each gave to what came, the past discounted.

    .. math:: w_k \leftarrow \gamma^B w_k + \sum_b \ln p_k(y_b)

    Without discount the mixture's log loss over n samples exceeds that of the best factor, which may be the softmax,
    by ln(K) / n at most (Vovk 1990): it cannot lose to it.
    """
    rows = torch.arange(len(classes), device=classes.device)
    foretold = factored_probabilities(mean, covariance)[:, rows, classes].to(evidence.dtype)
    least = torch.finfo(torch.float32).tiny
    return memory ** len(classes) * evidence + foretold.nan_to_num(0).clamp_min(least).log().sum(1)
