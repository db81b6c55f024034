"""Robust factorisation of the innovation covariance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

JITTERS = (0.0, 1e-7, 1e-5, 1e-3)


class Factor(NamedTuple):
    """A factorised innovation covariance.

    Attributes:
        inverse: L^-1 with S = LL', lower triangular, (k, k), float64.
        level: How many jitters were tried in vain before the one that worked, () int64; 0 is none.
        valid: Whether any of them gave a finite factor, () bool.
    """

    inverse: Tensor
    level: Tensor
    valid: Tensor


def robust_cholesky(S: Tensor) -> Factor:
    """Factorise S in float64, with as little relative jitter on the diagonal as it takes.

    The whole ladder of jitters is factorised as one batch and the first success selected on the device, so that
    no escalation ever makes the host wait. The jitter is relative to the mean of the diagonal, absolute for a matrix
    that has underflowed to zero.

    Args:
        S: Symmetric positive (semi-)definite matrix, (k, k), any floating dtype.
    """
    S = 0.5 * (S + S.mT).double()
    scale = S.diagonal().mean()
    jitters = torch.tensor(JITTERS, dtype=S.dtype, device=S.device) * torch.where(scale == 0, 1.0, scale)
    ladder = S + torch.diag_embed(jitters.unsqueeze(-1).expand(-1, len(S)))
    factors, info = torch.linalg.cholesky_ex(ladder)
    worked = (info == 0) & factors.isfinite().all(-1).all(-1)
    level = worked.to(torch.int64).argmax()
    identity = torch.eye(len(S), dtype=S.dtype, device=S.device)
    inverse = torch.linalg.solve_triangular(factors.index_select(0, level.view(1))[0], identity, upper=False)
    return Factor(inverse, level, worked.any())
