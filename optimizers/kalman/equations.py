"""The equations of LoKO and R-Kalman as pure functions on tensors, and the factorisation they rely on.

Shapes: ``B`` batch, ``d`` observation coordinates, ``n`` state. A batch is observed jointly: its B*d coordinates
are stacked, and its observation noise is I_B (x) R.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..constants import constant, identity

JITTERS = (0.0, 1e-7, 1e-5, 1e-3)
"""Relative jitters on the diagonal, tried in this order until a matrix has a Cholesky factor."""


def mean_outer(e: Tensor) -> Tensor:
    """Return ee', averaged over the batch: (B, d) -> (d, d)."""
    return (e.mT @ e) / len(e)


def own_blocks(HPH: Tensor, d: int) -> Tensor:
    """Return HPH' of each sample's own coordinates: (B*d, B*d) -> (B, d, d)."""
    B = len(HPH) // d
    if B == 1:
        return HPH.unsqueeze(0)
    own = torch.arange(B, device=HPH.device)
    return HPH.view(B, d, B, d)[own, :, own]


def block_diagonal(L: Tensor) -> Tensor:
    """Return the matrices of all samples as one block-diagonal matrix, (B, d, k) -> (B*d, B*k)."""
    B, d, k = L.shape
    if B == 1:
        return L[0]
    return torch.einsum("bdk,bc->bdck", L, identity(B, L.dtype, L.device)).reshape(B * d, B * k)


def innovation_covariance(HPH: Tensor, R: Tensor) -> Tensor:
    """Return the bracket of LoKO eq. 11a for a batch: S = HPH' + I_B (x) R, (B*d, B*d)."""
    return HPH + torch.kron(identity(len(HPH) // len(R), R.dtype, R.device), R)


def regularised_noise(R: Tensor, rho: float) -> Tensor:
    """Return the regularised noise of GRNG eq. 15, R(I + rho R)^-1 = (R^-1 + rho I)^-1, (d, d).

    Positive definite wherever R is, for any rho >= 0. rho I must be meant in orthonormal coordinates.
    """
    regularised = torch.linalg.solve_ex(identity(len(R), R.dtype, R.device) + rho * R, R).result
    return (0.5 * (regularised + regularised.mT)).contiguous()  # column-major from the solver, which kron rejects


def neumann_noise(R: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Return the first-order Neumann form of :func:`regularised_noise` (after GRNG eq. 15), R(I - rho R).

    Returns:
        R - rho R^2, (d, d), and whether it is positive definite where R is, that is rho lambda_max(R) < 1, () bool:
        whether I - rho R has a Cholesky factor.
    """
    shrunk = identity(len(R), R.dtype, R.device) - rho * R
    return R - rho * (R @ R), torch.linalg.cholesky_ex(shrunk).info == 0


def posterior_variance(p: Tensor, reduction: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance of LoKO eq. 11c, p <- p - diag(KH) p, kept positive below the resolution of p.

    In exact arithmetic 0 < p <= p_prior whenever R is positive definite, so the lower bound ``eps * p`` only ever
    replaces a difference that floating point cannot represent.

    Args:
        p: Prior variance, (n,), positive.
        reduction: diag(KH) p = p^2 diag(H' S^-1 H), (n,).

    Returns:
        Posterior variance (n,), and how many entries were raised to the lower bound, ().
    """
    posterior = p - reduction
    floor = torch.finfo(p.dtype).eps * p
    return torch.maximum(posterior, floor), (posterior < floor).sum()


class CholeskyFactor(NamedTuple):
    """A factorised symmetric positive definite matrix S = LL'.

    Attributes:
        inverse: L^-1, lower triangular, (k, k), float64.
        level: How many jitters failed before the one that worked, () int64; 0 is none.
        valid: Whether any of them gave a finite factor, () bool.
    """

    inverse: Tensor
    level: Tensor
    valid: Tensor


def robust_cholesky(S: Tensor) -> CholeskyFactor:
    """Return the Cholesky factor of S in float64, with as little relative jitter on the diagonal as it takes.

    On a CPU the jitters are tried one after the other. Elsewhere all are factorised as one batch and the first success
    is selected on the device, so that a retry never makes the host wait. The jitter is relative to the mean of the
    diagonal, absolute for a matrix that has underflowed to zero.

    Args:
        S: Symmetric positive (semi-)definite matrix, (k, k), any floating dtype.
    """
    S = 0.5 * (S + S.mT).double()
    eye = identity(len(S), S.dtype, S.device)
    if S.device.type == "cpu":
        factor, info = torch.linalg.cholesky_ex(S)
        if not int(info) and math.isfinite(float(factor.sum())):
            inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
            return CholeskyFactor(inverse, info.to(torch.int64), info == 0)
    scale = S.diagonal().mean()
    jitters = constant(JITTERS, S.dtype, S.device) * torch.where(scale == 0, 1.0, scale)
    ladder = S + torch.diag_embed(jitters.unsqueeze(-1).expand(-1, len(S)))
    factors, info = torch.linalg.cholesky_ex(ladder)
    worked = (info == 0) & factors.isfinite().all(-1).all(-1)
    level = worked.to(torch.int64).argmax()
    inverse = torch.linalg.solve_triangular(factors.index_select(0, level.view(1))[0], eye, upper=False)
    return CholeskyFactor(inverse, level, worked.any())
