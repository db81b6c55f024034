r"""The prior's variance from the data: MacKay's evidence approximation, a variance a parameter tensor.

Shapes: ``n`` state, ``T`` tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def evidence_prior(prior: Tensor, start: Tensor, shift: Tensor, variance: Tensor, sizes: Tensor, a0: float) -> Tensor:
    r"""One fixed-point step towards the prior variances that make the data most probable (MacKay 1992, eq. 3.9).

    With gamma_t = n_t - tr(P_t)/p_t the number of a tensor's parameters that the data determine, the maximum of the
    evidence has p_t = |theta_t - theta_t(0)|^2 / gamma_t. An inverse-gamma prior on p_t, worth a0 such parameters at
    the variance it started with, keeps it there until there are data:

    .. math::
        p_t \leftarrow \frac{|\theta_t - \theta_t(0)|^2 + a_0 p_t(0)}{\gamma_t + a_0}

    Args:
        prior: p, (T,).
        start: p(0), (T,).
        shift: theta - theta(0), (n,).
        variance: Diagonal of the posterior covariance, (n,).
        sizes: Number of parameters of every tensor, (T,) int64.
        a0: Strength of the inverse-gamma prior, positive.
    """
    determined = (sizes - per_tensor(variance, sizes) / prior).clamp_min(0)
    return (per_tensor(shift.square(), sizes) + a0 * start) / (determined + a0)


def per_tensor(values: Tensor, sizes: Tensor) -> Tensor:
    """Sum over each tensor's entries, (n,) -> (T,)."""
    return torch.segment_reduce(values, "sum", lengths=sizes)
