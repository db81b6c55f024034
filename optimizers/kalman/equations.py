"""The equations of LoKO and R-Kalman as pure functions on tensors.

Shapes: ``B`` batch, ``d`` observation coordinates, ``n`` state. A batch is observed jointly: its B*d coordinates
are stacked, and its observation noise is I_B (x) R.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_outer(e: Tensor) -> Tensor:
    """ee', averaged over the batch: (B, d) -> (d, d)."""
    return (e.mT @ e) / len(e)


def own_blocks(HPH: Tensor, d: int) -> Tensor:
    """HPH' of each sample's own coordinates: (B*d, B*d) -> (B, d, d)."""
    B = len(HPH) // d
    own = torch.arange(B, device=HPH.device)
    return HPH.view(B, d, B, d)[own, :, own]


def innovation_covariance(HPH: Tensor, R: Tensor) -> Tensor:
    """The bracket of LoKO eq. 11a for a batch: S = HPH' + I_B (x) R, (B*d, B*d)."""
    identity = torch.eye(len(HPH) // len(R), dtype=R.dtype, device=R.device)
    return HPH + torch.kron(identity, R)


def regularised_noise(R: Tensor, rho: float) -> Tensor:
    """The regularised noise of GRNG eq. 15, R(I + rho R)^-1 = (R^-1 + rho I)^-1, (d, d).

    Positive definite wherever R is, for any rho >= 0. rho I must be meant in orthonormal coordinates.
    """
    identity = torch.eye(len(R), dtype=R.dtype, device=R.device)
    regularised = torch.linalg.solve_ex(identity + rho * R, R).result
    return (0.5 * (regularised + regularised.mT)).contiguous()  # solved columns first, which kron does not take


def neumann_noise(R: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """First-order Neumann form of :func:`regularised_noise` (after GRNG eq. 15): R(I - rho R) = R - rho R^2.

    Returns:
        It, (d, d), and whether it is positive definite where R is, that is rho lambda_max(R) < 1, () bool: whether
        I - rho R has a Cholesky factor.
    """
    identity = torch.eye(len(R), dtype=R.dtype, device=R.device)
    return R - rho * (R @ R), torch.linalg.cholesky_ex(identity - rho * R).info == 0


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
