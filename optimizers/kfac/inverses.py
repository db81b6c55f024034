"""Methods to invert damped Kronecker factors, (M + lam I)^-1, of L symmetric positive semi-definite matrices at a time.

An inverse is prepared at one damping lam0 when the factors are refreshed, and used at the dampings that follow.

Shapes: ``M`` (L, k, k); ``lam`` (L,); ``V`` (L, r, k), rows that are multiplied by the inverse from the right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..parts import Part

State = dict[str, Any]

MAX_DAMPING_CHANGE = 0.5
"""Largest relative change of the damping over which eq. 11 is used; it is positive definite below 1."""

MAX_RESIDUAL = 0.5
"""Largest residual |I - AX|, root mean square of its eigenvalues, with which Newton's iteration counts as converged."""

MAX_ITERATIONS = 60
"""Most iterations of Newton's method; the cubic one from the identity needs 22 at a condition number of 1e8."""


class InverseMethod(Part, ABC):
    """A way to invert M + lam I.

    Attributes:
        is_iteration: Whether it converges to the inverse step by step.
    """

    kind = "inverse_method"
    is_iteration: ClassVar[bool] = False

    def decompose(self, M: Tensor) -> State:
        """Return what can be computed before the damping is known."""
        return {}

    @abstractmethod
    def prepare(self, M: Tensor, lam: Tensor, previous: State) -> State:
        """Return what is kept of the inverse of M + lam I.

        ``prepared`` is lam, (L,), and ``inverse_failures`` counts the matrices without an inverse so far, ().
        """

    @abstractmethod
    def solve(self, state: State, V: Tensor, lam: Tensor | None) -> Tensor:
        """Return V (M + lam I)^-1; at the damping it was prepared at where lam is None."""


class DenseInverse(InverseMethod):
    """The matrix X = (M + lam0 I)^-1 itself.

    At another damping eq. 11 is applied to V, with |lam - lam0| <= lam0 / 2. A matrix that is not positive definite
    keeps the inverse it had, or I / (|M| + lam0) at first. A layer whose M is zero gets 0, the pseudo-inverse, which
    leaves it unchanged.
    """

    @abstractmethod
    def invert(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inverse of A (L, k, k), and whether each matrix has one, (L,)."""

    def prepare(self, M: Tensor, lam: Tensor, previous: State) -> State:
        """Return X, lam0 and the number of failures so far."""
        identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        X, works = self.invert(add_diagonal(M, lam))
        works = works & X.sum((-2, -1)).isfinite()
        norm = torch.linalg.matrix_norm(M)
        scale = torch.where((norm > 0) & norm.isfinite(), 1 / (norm + lam), 0)
        before = previous.get("inverse", scale[:, None, None] * identity)
        failures = (~works).sum()
        return {
            "inverse": torch.where(works[:, None, None], X, before),
            "prepared": torch.where(works, lam, previous.get("prepared", lam)),
            "inverse_failures": previous.get("inverse_failures", torch.zeros_like(failures)) + failures,
        }

    def solve(self, state: State, V: Tensor, lam: Tensor | None) -> Tensor:
        """Return VX, or V(X - dlam X^2)."""
        VX = V @ state["inverse"]
        if lam is None:
            return VX
        delta = clamped_change(lam, state["prepared"])[:, None, None]
        return linear_inverse(VX, VX @ state["inverse"], delta)


class Cholesky(DenseInverse):
    """A^-1 from the Cholesky factor C, A = CC'.

    On a CPU the factor itself is kept at first, ``cholesky``: two triangular solves are the step at lam0, and a third
    of the work of an inverse. It is turned into the ``inverse`` when another damping is asked for, for the products of
    eq. 11, so that an inverse that lasts for a single step is never formed.
    """

    name = "cholesky"

    def prepare(self, M: Tensor, lam: Tensor, previous: State) -> State:
        """Return C or X, lam0 and the number of failures so far."""
        if M.device.type == "cpu":
            factor, info = torch.linalg.cholesky_ex(add_diagonal(M, lam))
            least = factor.diagonal(dim1=-2, dim2=-1).square().reciprocal().sum(-1)  # it is not finite where C is not
            if bool(((info == 0) & least.isfinite()).all()):
                failures = previous.get("inverse_failures", torch.zeros((), dtype=torch.int64))
                return {"cholesky": factor, "inverse": None, "prepared": lam, "inverse_failures": failures}
        known = {name: value for name, value in self._with_inverse(previous).items() if value is not None}
        return {"cholesky": None, **super().prepare(M, lam, known)}

    def solve(self, state: State, V: Tensor, lam: Tensor | None) -> Tensor:
        """Return V A^-1, or V(X - dlam X^2)."""
        if lam is None and state.get("inverse") is None:
            return torch.cholesky_solve(V.mT, state["cholesky"]).mT
        state |= self._with_inverse(state)
        return super().solve(state, V, lam)

    def _with_inverse(self, state: State) -> State:
        """Return a state whose factor, where it has one, is replaced by the inverse."""
        if state.get("cholesky") is None:
            return state
        return {**state, "inverse": torch.cholesky_inverse(state["cholesky"]).mT, "cholesky": None}  # rows contiguous

    def invert(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inverse, and whether A is positive definite."""
        factor, info = torch.linalg.cholesky_ex(A)
        works = (info == 0) & factor.sum((-2, -1)).isfinite()
        identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)  # a singular factor would raise
        return torch.cholesky_inverse(torch.where(works[:, None, None], factor, identity)), works


class Eigen(InverseMethod):
    """Eigendecomposition M = QDQ', which is exact at every damping."""

    name = "eigen"

    def decompose(self, M: Tensor) -> State:
        """Return Q and the eigenvalues."""
        values, vectors = torch.linalg.eigh(torch.nan_to_num(M))
        return {"values": values.clamp_min(0), "vectors": vectors}

    def prepare(self, M: Tensor, lam: Tensor, previous: State) -> State:
        """Return the damping lam0 unchanged, because an eigendecomposition does not fail."""
        return {"prepared": lam, "inverse_failures": torch.zeros((), dtype=torch.int64, device=M.device)}

    def solve(self, state: State, V: Tensor, lam: Tensor | None) -> Tensor:
        """Return VQ (D + lam I)^-1 Q'."""
        lam = state["prepared"] if lam is None else lam
        inverse = reciprocal(state["values"] + lam[:, None]).unsqueeze(1)
        return (V @ state["vectors"] * inverse) @ state["vectors"].mT


class NewtonInverse(DenseInverse):
    """Inverse by Newton's iteration, GRNG eqs. 19 to 21.

    With the residual E = I - AX, X <- X(I + E), X(I + E + E^2), X(I + E + E^2 + E^3), whose residuals are E^order.

    Attributes:
        order: 2, 3 or 4.
        paper_start: Start from X = A' / tr(A'A), as in the paper, rather than from I / |A|, which is faster.
    """

    is_iteration = True
    order: ClassVar[int]
    paper_start: ClassVar[bool] = False

    def invert(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Return X, and whether its residual is small."""
        return newton(A, self.order, self.paper_start)


class NewtonQuadratic(NewtonInverse):
    """Newton's quadratic iteration, eq. 19."""

    name, order = "newton-quadratic", 2


class NewtonCubic(NewtonInverse):
    """Newton's cubic iteration, eq. 20."""

    name, order = "newton-cubic", 3


class NewtonQuartic(NewtonInverse):
    """Newton's quartic iteration, eq. 21."""

    name, order = "newton-quartic", 4


class NewtonPaper(NewtonInverse):
    """Newton's cubic iteration exactly as in the paper, from A' / tr(A'A)."""

    name, order, paper_start = "newton-paper", 3, True


def newton(A: Tensor, order: int, paper_start: bool = False) -> tuple[Tensor, Tensor]:
    """Return A^-1 by Newton's iteration, see :class:`NewtonInverse`.

    A matrix whose residual no longer falls keeps its best X; once that holds for all, the iteration stops. The test
    waits for the device.

    Args:
        A: Symmetric positive definite, (L, k, k).
        order: 2, 3 or 4.
        paper_start: Start from A' / tr(A'A).

    Returns:
        X, and whether its residual is small, (L,).
    """
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    frobenius = torch.linalg.matrix_norm(A)
    bound = torch.minimum(frobenius, torch.linalg.matrix_norm(A, torch.inf))[:, None, None]  # of the spectral norm
    X = A.mT / frobenius.square()[:, None, None] if paper_start else (identity / bound).expand_as(A)
    E = identity - A @ X
    residual = torch.linalg.matrix_norm(E)
    for _ in range(MAX_ITERATIONS):
        power = E
        for _ in range(order - 2):
            power = E + E @ power
        candidate = X + X @ power
        remaining = identity - A @ candidate
        norm = torch.linalg.matrix_norm(remaining)
        better = norm < residual
        X, E = (torch.where(better[:, None, None], new, old) for new, old in ((candidate, X), (remaining, E)))
        residual = torch.where(better, norm, residual)
        if not bool(better.any()):
            break
    return X, residual / A.shape[-1] ** 0.5 <= MAX_RESIDUAL


def add_diagonal(M: Tensor, lam: Tensor) -> Tensor:
    """Return M + lam I, (L, k, k)."""
    A = M.clone()
    A.diagonal(dim1=-2, dim2=-1).add_(lam[:, None])
    return A


def linear_inverse(VX: Tensor, VXX: Tensor, delta: Tensor) -> Tensor:
    """Return GRNG eq. 11 applied to V: V(X - dlam X^2), where X = (M + lam0 I)^-1 and lam = lam0 + dlam.

    The relative error is (dlam / (mu + lam))^2 along an eigenvector of M with eigenvalue mu.
    """
    return VX - delta * VXX


def clamped_change(lam: Tensor, prepared: Tensor) -> Tensor:
    """Return the change of the damping, clamped to the range in which eq. 11 is used, (L,)."""
    return (lam - prepared).clamp(-MAX_DAMPING_CHANGE * prepared, MAX_DAMPING_CHANGE * prepared)


def reciprocal(values: Tensor) -> Tensor:
    """Return 1 / x, and 0 where x is: the pseudo-inverse of a factor that is zero and not damped."""
    return torch.where(values > 0, 1 / values, 0)
