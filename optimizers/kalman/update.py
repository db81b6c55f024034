r"""What a batch says about the state: in moments, or through the natural parameters.

Either gives the gain of a filter whose covariance P is known by A = HPH', and the information H'Z'ZH that the batch
adds to P^-1.

Shapes: ``B`` batch, ``d`` observation coordinates, ``rows`` = B*d.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .blocks import Gain
from .cholesky import robust_cholesky
from .equations import innovation_covariance, neumann_noise, regularised_noise


class Solution(NamedTuple):
    """A gain in float64, and how it was found.

    Attributes:
        gain: The gain.
        level: How many jitters the factorisation took, () int64.
        valid: Whether it succeeded, () bool.
    """

    gain: Gain
    level: Tensor
    valid: Tensor


class Measurement(Protocol):
    """A batch, observed.

    Attributes:
        samples: How many samples it has.
    """

    samples: int

    def solve(self, A: Tensor) -> Solution:
        """The gain, given A = HPH', (rows, rows)."""
        ...

    def information(self) -> Tensor:
        """Z with Z'Z = R^-1, (k, rows), in float64."""
        ...

    def noise_trace(self) -> Tensor:
        """Trace of the noise of one sample's coordinates, averaged over the batch, ()."""
        ...


class Moments:
    """Residuals with noise I_B (x) R; for R-Kalman the noise is the regularised one.

    With S = A + I_B (x) R = LL' (LoKO eq. 11a), W = L^-1 and u = We.

    Args:
        e: Residuals, (B, d).
        R: Observation noise, (d, d).
        rho: Regularisation of GRNG eq. 15.
        neumann: Take its first-order form, and fail where that is indefinite.
    """

    def __init__(self, e: Tensor, R: Tensor, rho: float = 0.0, neumann: bool = False) -> None:
        self.samples = len(e)
        self.e, self.R, self.definite = e, R, torch.ones((), dtype=torch.bool, device=e.device)
        if rho and neumann:
            self.R, self.definite = neumann_noise(R, rho)
        elif rho:
            self.R = regularised_noise(R, rho)

    def solve(self, A: Tensor) -> Solution:
        """The gain from the factor of S."""
        factor = robust_cholesky(innovation_covariance(A, self.R))
        W = factor.inverse
        return Solution(Gain(W, W @ self.e.flatten().to(W.dtype)), factor.level, factor.valid & self.definite)

    def information(self) -> Tensor:
        """The inverse factor of R, once a sample."""
        Z = robust_cholesky(self.R).inverse.contiguous()  # solved columns first, which kron does not take
        return torch.kron(torch.eye(len(self.e), dtype=Z.dtype, device=Z.device), Z)

    def noise_trace(self) -> Tensor:
        """Trace of R."""
        return self.R.trace()


class Natural:
    r"""Residuals y - E y, observed through the natural parameters, whose precision is F = LL'.

    The noise of y is F and its Jacobian FJ. The same update in terms of J stays stable where F is singular:

    .. math::
        \theta \leftarrow \theta + P J^\top (I + \tilde F A)^{-1} \tilde e, \quad A = J P J^\top, \quad
        \tilde F = F + \rho F^2, \quad \tilde e = (I + \rho F) e

    With LL' = F~ and CC' = I + L'AL: W = C^-1 L', v = e~, u = -W A e~, by the matrix inversion lemma. rho is
    R-Kalman's, for H'(R^-1 + rho I)H = J'(F + rho F^2)J.

    Args:
        e: Residuals, (B, d).
        L: Factor of F, (B, d, k).
        rho: Regularisation of GRNG eq. 15.
    """

    def __init__(self, e: Tensor, L: Tensor, rho: float = 0.0) -> None:
        e, L = e.double(), L.double()
        if rho:
            LL = L.mT @ L
            identity = torch.eye(LL.shape[-1], dtype=L.dtype, device=L.device)
            e = e + rho * (L @ (L.mT @ e.unsqueeze(-1))).squeeze(-1)
            L = L @ torch.linalg.cholesky_ex(identity + rho * LL).L
        self.e, self.L, self.samples = e.flatten(), block_diagonal(L), len(e)

    def solve(self, A: Tensor) -> Solution:
        """The gain from the factor of I + L'AL."""
        A, L = A.double(), self.L
        identity = torch.eye(L.shape[1], dtype=L.dtype, device=L.device)
        factor = robust_cholesky(identity + L.mT @ A @ L)
        W = factor.inverse @ L.mT
        return Solution(Gain(W, -(W @ (A @ self.e)), self.e), factor.level, factor.valid)

    def information(self) -> Tensor:
        """L'."""
        return self.L.mT

    def noise_trace(self) -> Tensor:
        """Trace of F~."""
        return self.L.square().sum() / self.samples


def block_diagonal(L: Tensor) -> Tensor:
    """(B, d, k) -> (B*d, B*k)."""
    B, d, k = L.shape
    if B == 1:
        return L[0]
    identity = torch.eye(B, dtype=L.dtype, device=L.device)
    return torch.einsum("bdk,bc->bdck", L, identity).reshape(B * d, B * k)
