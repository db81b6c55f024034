r"""A batch observed at the mode of its posterior: the update whose noise needs no estimate.

Shapes: ``B`` batch, ``d`` observation coordinates, ``rows`` = B*d, ``k`` columns of L a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..likelihoods.base import Innovation, Observation
from .blocks import Gain
from .cholesky import robust_cholesky
from .measurement import Solution, block_diagonal

ITERATIONS = 12
"""Most Newton steps; three to five are usual, and more is needed where logits are certain, wrong, and free to move."""

CONVERGED = 1e-12
"""Change of lambda at which the iteration ends on a CPU. Elsewhere asking would take longer than going on."""


class Mode:
    r"""The observation through the natural parameters, linearised where the posterior has its maximum.

    With the prior N(theta, P), the outputs linear in theta and eta = J dtheta, the mode is that of

    .. math::
        \phi(\eta) = -\log p(y \mid \eta) + \tfrac12 \eta^\top A^{-1} \eta, \quad A = J P J^\top, \quad
        \eta = A \lambda, \quad \lambda = e(\eta)

    and the change of state is P J'lambda: an implicit gradient step, which has no rate and cannot overshoot. Newton's
    method works on lambda, where A may be singular: lambda <- lambda + s (I + FA)^-1 (e - lambda), with F = LL' and
    e = y - E y taken at eta. The step length s = ln(1 + b)/b, b the likelihood's own bound on how its curvature bends
    along the step, makes every step a descent (Sun & Tran-Dinh 2019, theorem 2). The information the batch adds is
    J'FJ at the mode: Laplace's approximation. For a Gaussian it is the Kalman filter itself.

    Args:
        observation: The batch.
        innovation: What it says through the natural parameters.
    """

    def __init__(self, observation: Observation, innovation: Innovation) -> None:
        self.observation, self.samples = observation, len(observation.outputs)
        self.outputs = observation.outputs.detach().double()
        self.cotangents = innovation.cotangents.double()
        self.shape = innovation.residual.shape
        self.projection = None if innovation.projection is None else innovation.projection.double()

    def solve(self, A: Tensor) -> Solution:
        """The gain at the mode."""
        A = 0.5 * (A + A.mT).double()
        dual = A.new_zeros(len(A))
        for _ in range(ITERATIONS):
            e, L = self._at(A @ dual)
            gap = e - dual
            inner = torch.linalg.cholesky_ex(_inner(A, L)).L
            step = gap - L @ torch.cholesky_solve((L.mT @ (A @ gap)).unsqueeze(1), inner).squeeze(1)
            step = _length(self.observation.likelihood.self_concordance_bound(self._shift(A @ step))) * step
            dual = dual + step
            if A.device.type == "cpu" and not float(step.abs().amax()) > CONVERGED:
                break
        _, self.L = self._at(A @ dual)
        factor = robust_cholesky(_inner(A, self.L))
        W = factor.inverse @ self.L.mT
        return Solution(Gain(W, W.new_zeros(len(W)), dual), factor.level, factor.valid)

    def information(self) -> Tensor:
        """L' at the mode; after ``solve``."""
        return self.L.mT

    def noise_trace(self) -> Tensor:
        """Trace of F at the mode; after ``solve``."""
        return self.L.square().sum() / self.samples

    def _at(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Residual, (rows,), and factor of F, (rows, B*k), where the coordinates are shifted by eta, (rows,)."""
        innovation = self.observation.at(self.outputs + self._shift(eta)).natural()
        if self.projection is not None:
            innovation = innovation.project(self.projection)
        assert innovation.factor is not None
        return innovation.residual.flatten(), block_diagonal(innovation.factor)

    def _shift(self, eta: Tensor) -> Tensor:
        """The same in the outputs, (B, m), for the coordinates are orthonormal."""
        return (eta.view(self.shape).unsqueeze(1) @ self.cotangents).squeeze(1)


def _inner(A: Tensor, L: Tensor) -> Tensor:
    """I + L'AL."""
    return torch.eye(L.shape[1], dtype=L.dtype, device=L.device) + L.mT @ A @ L


def _length(bend: Tensor) -> Tensor:
    """ln(1 + b)/b, 1 at zero."""
    least = torch.finfo(bend.dtype).eps
    return torch.log1p(bend.clamp_min(least)) / bend.clamp_min(least)
