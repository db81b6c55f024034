r"""Measurement updates: the gain of a batch, and the information that it adds to the state.

Every update gives the gain of a filter whose covariance P is known by A = HPH', and the information H'Z'ZH that the
batch adds to P^-1.

Shapes: ``B`` batch, ``d`` observation coordinates, ``rows`` = B*d, ``k`` columns of a factor per sample.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..ranges import NOT_NEGATIVE, check_arguments
from .blocks import Gain
from .equations import block_diagonal, innovation_covariance, neumann_noise, regularised_noise, robust_cholesky

UPDATES = ("prediction", "posterior_mode")
"""Where the observation is linearised: at the prediction (extended Kalman filter) or at the posterior mode."""


class Solution(NamedTuple):
    """A gain in float64 and how it was found.

    Attributes:
        gain: The gain.
        level: How many jitters the factorisation took, () int64.
        valid: Whether it succeeded, () bool.
        remaining: Residual after the step, by the linear model of the update, (rows,).
    """

    gain: Gain
    level: Tensor
    valid: Tensor
    remaining: Tensor


class MeasurementUpdate(Protocol):
    """The update by one batch.

    Attributes:
        samples: How many samples the batch has.
    """

    samples: int

    def solve(self, A: Tensor) -> Solution:
        """Return the gain, given A = HPH', (rows, rows)."""
        ...

    def information(self) -> Tensor:
        """Return Z with Z'Z = R^-1, (k, rows), in float64."""
        ...

    def noise_trace(self) -> Tensor:
        """Return the trace of the noise of one sample's coordinates, averaged over the batch, ()."""
        ...

    def figures(self) -> dict[str, Tensor]:
        """Return diagnostics of the update by name, for the optimizer's ``stats``; call it after ``solve``."""
        ...


class GaussianUpdate:
    """Kalman update by residuals with Gaussian noise I_B (x) R; for R-Kalman the noise is the regularised one.

    With S = A + I_B (x) R = LL' (LoKO eq. 11a), W = L^-1 and u = We.

    Args:
        e: Residuals, (B, d).
        R: Observation noise, (d, d).
        rho: Regularisation of GRNG eq. 15.
        neumann: Use its first-order form, and fail where that is indefinite.
    """

    def __init__(self, e: Tensor, R: Tensor, rho: float = 0.0, neumann: bool = False) -> None:
        self.samples = len(e)
        self.e, self.R, self.definite = e, R, torch.ones((), dtype=torch.bool, device=e.device)
        if rho and neumann:
            self.R, self.definite = neumann_noise(R, rho)
        elif rho:
            self.R = regularised_noise(R, rho)

    def solve(self, A: Tensor) -> Solution:
        """Return the gain from the factor of S."""
        factor = robust_cholesky(innovation_covariance(A, self.R))
        W = factor.inverse
        u = W @ self.e.flatten().to(W.dtype)
        remaining = ((u @ W).view(self.e.shape) @ self.R.to(W.dtype)).flatten()  # (I_B (x) R) S^-1 e
        return Solution(Gain(W, u), factor.level, factor.valid & self.definite, remaining)

    def information(self) -> Tensor:
        """Return the inverse factor of R, once per sample."""
        Z = robust_cholesky(self.R).inverse.contiguous()  # column-major from the solver, which kron rejects
        return torch.kron(torch.eye(len(self.e), dtype=Z.dtype, device=Z.device), Z)

    def noise_trace(self) -> Tensor:
        """Return the trace of R."""
        return self.R.trace()

    def figures(self) -> dict[str, Tensor]:
        """Return no diagnostics, because the update is exact."""
        return {}


class NaturalParameterUpdate:
    r"""Update by residuals y - E y observed through the natural parameters, whose precision is F = LL'.

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
        """Return the gain from the factor of I + L'AL."""
        A, L = A.double(), self.L
        identity = torch.eye(L.shape[1], dtype=L.dtype, device=L.device)
        factor = robust_cholesky(identity + L.mT @ A @ L)
        W = factor.inverse @ L.mT
        u = -(W @ (A @ self.e))
        return Solution(Gain(W, u, self.e), factor.level, factor.valid, self.e + u @ W)

    def information(self) -> Tensor:
        """Return L' of the likelihood's precision."""
        return self.L.mT

    def noise_trace(self) -> Tensor:
        """Return the trace of F~."""
        return self.L.square().sum() / self.samples

    def figures(self) -> dict[str, Tensor]:
        """Return no diagnostics, because the update is exact."""
        return {}


def check_update(update: str, noise: str | None, rho: float) -> None:
    """Check the options of the update.

    Args:
        update: One of ``UPDATES``.
        noise: A noise other than the optimizer's default, if one was given.
        rho: Regularisation of GRNG eq. 15.

    Raises:
        ValueError: If the update is unknown, rho is out of range, or an option is given that it does not have.
    """
    check_arguments(
        "",
        [
            ("update", update, update in UPDATES, f"be one of {', '.join(UPDATES)}"),
            ("rho", rho, *NOT_NEGATIVE.judge(rho)),
        ],
    )
    if update == "posterior_mode":
        if rho:
            raise ValueError(f"update posterior_mode has no option rho; got {rho}")
        if noise is not None:
            raise ValueError(f"update posterior_mode has no option noise, it takes the likelihood's own; got {noise!r}")
