r"""The update at the mode of a batch's posterior: its noise is the likelihood's own and needs no estimate.

Shapes: ``B`` batch, ``d`` observation coordinates, ``rows`` = B*d, ``k`` columns of L per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..constants import identity
from ..fixed_steps import are_fixed
from ..likelihoods.base import Innovation, Observation
from .blocks import Gain
from .equations import block_diagonal, robust_cholesky
from .update import Solution

ITERATIONS = 200
"""Most Newton steps; three to five are usual. Confident wrong logits with a wide prior need up to seventy."""

UNREAD = 12
"""Newton steps after which a GPU is first waited for; before, reading would take longer than going on."""

FIXED = 20
"""Newton steps of an update that must not ask whether it has converged (:mod:`optimizers.fixed_steps`).

They reach the mode of logits up to 10 with prior variances of 1,000; from logits that are wrong by a hundred, the
update may end before the mode, at a point that is more probable than the prediction.
"""

CONVERGED = 1e-9
"""Relative change of lambda at which the iteration stops: the next one would be its square."""

SHORT = 0.5
"""Guaranteed length of a step below which a longer one is looked for."""

DOUBLINGS = 64
"""Most doublings of a step."""

STALLED = 1e-6
"""Relative change below which the iteration also stops once it no longer falls: rounding is all that is left."""


class PosteriorModeUpdate:
    r"""The observation through the natural parameters, linearised at the maximum of the posterior.

    With the prior N(theta, P), the outputs linear in theta and eta = J dtheta, the mode is that of

    .. math::
        \phi(\eta) = -\log p(y \mid \eta) + \tfrac12 \eta^\top A^{-1} \eta, \quad A = J P J^\top, \quad
        \eta = A \lambda, \quad \lambda = e(\eta)

    and the change of state is P J'lambda: an implicit gradient step, which has no learning rate and cannot overshoot.
    Newton's method works on lambda, where A may be singular: lambda <- lambda + s (I + FA)^-1 (e - lambda), with
    F = LL' and e = y - E y taken at eta. The step length s = ln(1 + b)/b, where b is the likelihood's self-concordance
    bound along the step, makes every step a descent (Sun & Tran-Dinh 2019, theorem 2): the objective is convex, and the
    iteration goes on until it has converged. Such a step changes a logit by no more than about ln(1 + b), however far
    the mode is: from logits wrong by 300 it would take hundreds. A short step is therefore doubled for as long as the
    objective falls. ``stats`` has the number of steps, and what is left of max |e - lambda|,
    which is zero at the mode (``newton_iterations``, ``newton_residual``). The information that the batch
    adds is J'FJ at the mode: Laplace's approximation. For a Gaussian likelihood it is the Kalman filter itself.

    Args:
        observation: The batch.
        innovation: The batch, observed through the natural parameters.
    """

    def __init__(self, observation: Observation, innovation: Innovation) -> None:
        self.observation, self.samples = observation, len(observation.outputs)
        self.outputs = observation.outputs.detach().double()
        self.cotangents = innovation.cotangents.double()
        self.is_projected = innovation.is_projected

    def solve(self, A: Tensor) -> Solution:
        """Return the gain at the mode."""
        A = 0.5 * (A + A.mT).double()
        dual, last, fixed = A.new_zeros(len(A)), float("inf"), are_fixed() and A.device.type != "cpu"
        for iteration in range(1, (FIXED if fixed else ITERATIONS) + 1):
            e, L = self._at(A @ dual)
            gap, LA = e - dual, L.mT @ A
            inner = torch.linalg.cholesky_ex(_inner(LA, L)).L
            step = torch.addmv(gap, L, torch.cholesky_solve((LA @ gap).unsqueeze(1), inner).squeeze(1), alpha=-1)
            ahead = A @ step
            length = _length(self.observation.likelihood.self_concordance_bound(self._shift(ahead)))
            moved = torch.addcmul(dual, length, step)
            if not fixed and (A.device.type == "cpu" or iteration >= UNREAD):
                # the whole step counts, for a short one is small wherever it is
                size, taken = torch.stack([_largest(step) / _largest(moved), length]).tolist()
                if not size > CONVERGED or last <= size < STALLED:
                    dual = moved
                    break
                last = size
                if taken < SHORT:
                    moved = dual + self._lengthened(A @ dual, ahead, dual, step, taken) * step
            dual = moved
        e, self.L = self._at(A @ dual)
        self.iterations, self.residual = iteration, (e - dual).abs().amax()
        factor = robust_cholesky(_inner(self.L.mT @ A, self.L))
        W = factor.inverse @ self.L.mT
        return Solution(Gain(W, W.new_zeros(len(W)), dual), factor.level, factor.valid, dual)

    def information(self) -> Tensor:
        """Return L' at the mode; call it after ``solve``."""
        return self.L.mT

    def noise_trace(self) -> Tensor:
        """Return the trace of F at the mode; call it after ``solve``."""
        return self.L.square().sum() / self.samples

    def figures(self) -> dict[str, Tensor]:
        """Return the number of Newton steps and the residual at the end; call it after ``solve``."""
        return {"newton_iterations": torch.tensor(self.iterations), "newton_residual": self.residual}

    def _lengthened(self, eta: Tensor, ahead: Tensor, dual: Tensor, step: Tensor, length: float) -> float:
        """Return the step length, doubled for as long as the objective still falls at the end of the step.

        It is convex along the step, so that this is at least half of the best length and gains at least half of what
        that would gain.

        Args:
            eta: A lambda, (rows,).
            ahead: A times the step.
            dual: lambda.
            step: The step.
            length: A length at which the objective still falls.
        """
        for _ in range(DOUBLINGS):
            e, _ = self._at(eta + 2 * length * ahead)
            if not bool(ahead @ (dual + 2 * length * step - e) <= 0):  # the derivative by the length
                break
            length = 2 * length
        return length

    def _at(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Return residual, (rows,), and factor of F, (rows, B*k), where the coordinates are shifted by eta, (rows,)."""
        moved, target = self.observation.likelihood.at(self.outputs + self._shift(eta)), self.observation.target
        innovation = moved.natural_along(target, self.cotangents) if self.is_projected else moved.natural(target)
        assert innovation.factor is not None
        return innovation.residual.flatten(), block_diagonal(innovation.factor)

    def _shift(self, eta: Tensor) -> Tensor:
        """Return the same shift in the outputs, (B, m), for the coordinates are orthonormal."""
        return torch.bmm(eta.view(self.samples, 1, -1), self.cotangents).squeeze(1)


def _inner(LA: Tensor, L: Tensor) -> Tensor:
    """Return I + L'AL, given L'A."""
    return torch.addmm(identity(L.shape[1], L.dtype, L.device), LA, L)


def _length(bound: Tensor) -> Tensor:
    """Return ln(1 + b)/b, 1 at zero."""
    bound = bound.clamp_min(torch.finfo(bound.dtype).eps)
    return bound.log1p() / bound


def _largest(values: Tensor) -> Tensor:
    """Return the largest absolute value, ()."""
    return torch.linalg.vector_norm(values, torch.inf)
