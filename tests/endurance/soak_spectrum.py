"""Smallest and largest figures of what an optimizer inverts: the covariance of a filter, the factors of K-FAC."""

from __future__ import annotations

import torch
from filtune.optimizers import OnlineOptimizer
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kfac.natural import NaturalOptimizer

ITERATIONS = 50
"""Power iterations for the largest eigenvalue of a precision; it is a lower bound, and its inverse an upper one."""


@torch.no_grad()
def spectrum(optimizer: OnlineOptimizer) -> dict[str, float]:
    """Return the spectrum by name; empty for an optimizer that inverts nothing.

    ``variance_min`` and ``variance_max`` are those of the filter's own diagonal of P, which its next step would use.
    ``eigenvalue_min`` is the smallest eigenvalue of P, or of all damped Kronecker factors, in float64.
    """
    if isinstance(optimizer, KalmanOptimizer):
        return _filter_spectrum(optimizer)
    if isinstance(optimizer, NaturalOptimizer):
        return _factor_spectrum(optimizer)
    return {}


def _filter_spectrum(optimizer: KalmanOptimizer) -> dict[str, float]:
    variance = torch.cat([part.flatten() for part in optimizer.variance()])
    found = {"variance_min": float(variance.min()), "variance_max": float(variance.max())}
    state = optimizer.filter
    if "V" not in state:
        return {**found, "eigenvalue_min": found["variance_min"]}  # P is diagonal
    precision, k = state["precision"].double(), int(state["filled"])
    V = state["V"][:k].double()
    v = torch.ones_like(precision)
    for _ in range(ITERATIONS):
        v = torch.nn.functional.normalize(precision * v + V.mT @ (V @ v), dim=0)
    largest = (precision * v + V.mT @ (V @ v)).norm()
    # P^-1 = diag(precision) + V'V is at least its smallest precision; the algebra inverts I + V diag(precision)^-1 V'
    exact, kept = (V / precision) @ V.mT, state["gram"][:k, :k].double()
    error = (kept - exact).norm() / exact.norm().clamp_min(torch.finfo(exact.dtype).tiny)
    inner = torch.linalg.eigvalsh(torch.eye(k, dtype=torch.float64) + 0.5 * (kept + kept.mT)) if k else torch.ones(1)
    return {
        **found,
        "eigenvalue_min": float(1 / largest),
        "precision_min": float(precision.min()),
        "inner_eigenvalue_min": float(inner[0]),
        "gram_error": float(error),
    }


def _factor_spectrum(optimizer: NaturalOptimizer) -> dict[str, float]:
    smallest = []
    for group in optimizer.natural["groups"].values():
        for state in (group["a_factor"], group["g_factor"]):
            if "M" in state:
                damping = state["prepared"].double()
                smallest.append(torch.linalg.eigvalsh(state["M"].double())[:, 0] + damping)
    return {"eigenvalue_min": float(torch.cat(smallest).min())} if smallest else {}
