"""The equations of LoKO as pure functions on tensors.

Shapes: ``B`` batch, ``d`` observation coordinates, ``n`` state. A batch is observed jointly: its B*d coordinates
are stacked, and its observation noise is I_B (x) R.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ema_residual(R: Tensor, e: Tensor, HPH: Tensor, beta: float) -> Tensor:
    """LoKO eq. 7, method 1: R <- beta R + (1 - beta) ee', averaged over the batch.

    Args:
        R: Observation noise, (d, d).
        e: Residuals, (B, d).
        HPH: Ignored; method 2 takes it.
        beta: Forgetting factor.
    """
    return beta * R + (1 - beta) * (e.mT @ e) / len(e)


def ema_innovation(R: Tensor, e: Tensor, HPH: Tensor, beta: float) -> Tensor:
    """LoKO eq. 12, method 2: R <- beta R + (1 - beta)(ee' + HPH'), averaged over the batch.

    Args:
        R: Observation noise, (d, d).
        e: Residuals, (B, d).
        HPH: Predicted observation covariance of the stacked batch, (B*d, B*d).
        beta: Forgetting factor.
    """
    B, d = e.shape
    own = HPH.view(B, d, B, d).diagonal(dim1=0, dim2=2).mean(-1)
    return beta * R + (1 - beta) * ((e.mT @ e) / B + own)


NOISES = {"ema-1": ema_residual, "ema-2": ema_innovation}


def innovation_covariance(HPH: Tensor, R: Tensor) -> Tensor:
    """The bracket of LoKO eq. 11a for a batch: S = HPH' + I_B (x) R, (B*d, B*d)."""
    identity = torch.eye(len(HPH) // len(R), dtype=R.dtype, device=R.device)
    return HPH + torch.kron(identity, R)


def posterior_variance(p: Tensor, reduction: Tensor) -> tuple[Tensor, Tensor]:
    """LoKO eq. 11c, p <- p - diag(KH) p, kept positive where the subtraction is below the resolution of p.

    In exact arithmetic 0 < p <= p_prior whenever R is positive definite, so the floor ``eps * p`` only ever
    replaces a difference that floating point cannot represent.

    Args:
        p: Prior variance, (n,), positive.
        reduction: diag(KH) p = p^2 diag(H' S^-1 H), (n,).

    Returns:
        Posterior variance (n,), and how many entries met the floor, ().
    """
    posterior = p - reduction
    floor = torch.finfo(p.dtype).eps * p
    return torch.maximum(posterior, floor), (posterior < floor).sum()
