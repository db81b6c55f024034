"""Inverses of damped factors, (M + lam I)^-1, of L symmetric positive semi-definite matrices at a time.

An inverse is prepared at one damping lam when the factors are refreshed, and used at the dampings that follow.

Shapes: ``M`` (L, k, k); ``lam`` (L,); ``V`` (L, r, k), rows that are multiplied by the inverse from the right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .kronecker import linear_inverse

State = dict[str, Tensor]

GUARD = 0.5
"""Largest change of the damping, relative to it, over which eq. 11 is used: it is positive definite below 1."""

ACCEPTED = 0.5
"""Largest residual |I - AX|, root mean square of its eigenvalues, with which Newton's iteration counts as converged."""

ITERATIONS = 60
"""Most of Newton's iterations; cubic ones from the identity need 22 at a condition number of 1e8."""


class Inverse(ABC):
    """A way to invert."""

    def decompose(self, M: Tensor) -> State:
        """What can be worked out before the damping is known."""
        return {}

    @abstractmethod
    def prepare(self, M: Tensor, lam: Tensor, previous: State) -> State:
        """What is kept of the inverse of M + lam I; ``indefinite`` counts those that had none, and had to fall back."""

    @abstractmethod
    def solve(self, state: State, V: Tensor, lam: Tensor | None) -> Tensor:
        """V (M + lam I)^-1; at the damping it was prepared at where lam is None."""


class Explicit(Inverse):
    """The matrix X = (M + lam0 I)^-1 itself; at other dampings by eq. 11, applied to V, with |lam - lam0| <= lam0 / 2.

    A matrix that is not positive definite but for rounding keeps the inverse it had, or I / (|M| + lam0) at first;
    nothing is known of a layer whose M is zero, and 0, its pseudo-inverse, leaves it as it is.

    Args:
        invert: Maps M + lam I to X and whether each of them is an inverse, (L,).
    """

    def __init__(self, invert: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self.invert = invert

    def prepare(self, M: Tensor, lam: Tensor, previous: State) -> State:
        """X, lam0 and how many fell back so far."""
        identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        X, works = self.invert(M + lam[:, None, None] * identity)
        works = works & X.sum((-2, -1)).isfinite()
        norm = torch.linalg.matrix_norm(M)
        scale = torch.where((norm > 0) & norm.isfinite(), 1 / (norm + lam), 0)
        before = previous.get("inverse", scale[:, None, None] * identity)
        found = {"inverse": torch.where(works[:, None, None], X, before)}
        found["prepared"] = torch.where(works, lam, previous.get("prepared", lam))
        missed = (~works).sum()
        return {**found, "indefinite": previous.get("indefinite", torch.zeros_like(missed)) + missed}

    def solve(self, state: State, V: Tensor, lam: Tensor | None) -> Tensor:
        """VX, or V(X - dlam X^2)."""
        VX = V @ state["inverse"]
        if lam is None:
            return VX
        change = guarded(lam, state["prepared"])[:, None, None]
        return linear_inverse(VX, VX @ state["inverse"], change)


class Eigen(Inverse):
    """By eigenvalues, QDQ': exact at every damping."""

    def decompose(self, M: Tensor) -> State:
        """Q and the eigenvalues."""
        values, vectors = torch.linalg.eigh(torch.nan_to_num(M))
        return {"values": values.clamp_min(0), "vectors": vectors}

    def prepare(self, M: Tensor, lam: Tensor, previous: State) -> State:
        """lam0; none is indefinite."""
        return {"prepared": lam, "indefinite": torch.zeros((), dtype=torch.int64, device=M.device)}

    def solve(self, state: State, V: Tensor, lam: Tensor | None) -> Tensor:
        """VQ (D + lam I)^-1 Q'."""
        lam = state["prepared"] if lam is None else lam
        inverse = reciprocal(state["values"] + lam[:, None]).unsqueeze(1)
        return (V @ state["vectors"] * inverse) @ state["vectors"].mT


def reciprocal(values: Tensor) -> Tensor:
    """1 / x, and 0 where x is: the pseudo-inverse of a factor that is zero and not damped."""
    return torch.where(values > 0, 1 / values, 0)


def guarded(lam: Tensor, prepared: Tensor) -> Tensor:
    """The change of the damping, kept within what eq. 11 bears, (L,)."""
    return (lam - prepared).clamp(-GUARD * prepared, GUARD * prepared)


def cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """A^-1 by a Cholesky factor, and whether there is one."""
    factor, info = torch.linalg.cholesky_ex(A)
    works = (info == 0) & factor.sum((-2, -1)).isfinite()
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)  # a singular factor would raise
    return torch.cholesky_inverse(torch.where(works[:, None, None], factor, identity)), works


def newton(A: Tensor, order: int, start: str = "identity") -> tuple[Tensor, Tensor]:
    """A^-1 by Newton's iteration; GRNG eqs. 19 to 21.

    With the residual E = I - AX, X <- X(I + E), X(I + E + E^2), X(I + E + E^2 + E^3), whose residuals are E^order.
    A matrix whose residual no longer falls is left as it was best; when all are, the iteration stops, which the host
    waits for.

    Args:
        A: Symmetric positive definite, (L, k, k).
        order: 2, 3 or 4.
        start: ``identity``, X = I / |A|; or ``transpose``, X = A' / tr(A'A), the paper's, from which it takes longer.

    Returns:
        X, and whether its residual is small, (L,).
    """
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    frobenius = torch.linalg.matrix_norm(A)
    bound = torch.minimum(frobenius, torch.linalg.matrix_norm(A, torch.inf))[:, None, None]  # of the spectral norm
    X = A.mT / frobenius.square()[:, None, None] if start == "transpose" else (identity / bound).expand_as(A)
    E = identity - A @ X
    residual = torch.linalg.matrix_norm(E)
    for _ in range(ITERATIONS):
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
    return X, residual / A.shape[-1] ** 0.5 <= ACCEPTED


INVERSES: dict[str, Inverse] = {
    "cholesky": Explicit(cholesky),
    "eigen": Eigen(),
    "newton-quadratic": Explicit(lambda A: newton(A, 2)),
    "newton-cubic": Explicit(lambda A: newton(A, 3)),
    "newton-quartic": Explicit(lambda A: newton(A, 4)),
    "newton-printed": Explicit(lambda A: newton(A, 3, "transpose")),
}
