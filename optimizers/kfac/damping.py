"""How the damping rho follows the loss, in the manner of Levenberg and Marquardt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .factors import Factor
from .kronecker import quadratic

LEAST, MOST = 1e-10, 1e4


def by_loss(rho: Tensor, loss: Tensor, previous: Tensor, phi: float) -> Tensor:
    """rho phi where the loss fell from the last step to this one, rho / phi where it rose; ().

    The papers name the scheme and phi, not the rule; this is its simplest reading.
    """
    return torch.where(loss < previous, rho * phi, torch.where(loss > previous, rho / phi, rho)).clamp(LEAST, MOST)


def by_ratio(rho: Tensor, change: Tensor, predicted: Tensor, phi: float) -> Tensor:
    """rho phi where the loss fell by more than 3/4 of what the quadratic model predicted, rho / phi below 1/4; ().

    After Martens and Grosse (2015, section 6.5).

    Args:
        rho: Damping.
        change: L(theta + d) - L(theta) on the same batch.
        predicted: g'd + d'Fd / 2; where it is not negative the model is no guide, and the damping is raised.
        phi: Below 1.
    """
    ratio = torch.where(predicted < 0, change / predicted, -1.0)
    raised = (ratio < 0.25) | ratio.isnan()
    return torch.where(ratio > 0.75, rho * phi, torch.where(raised, rho / phi, rho)).clamp(LEAST, MOST)


def predicted_change(factors: Sequence[tuple[Factor, Factor]], steps: Sequence[Tensor], G: Sequence[Tensor]) -> Tensor:
    """g'd + d'Fd / 2 of a step d, by the Kronecker factors, ().

    Args:
        factors: Lambda and Gamma of every stack.
        steps: d of every stack, (L, out, k).
        G: The gradient, likewise.
    """
    parts = [
        torch.dot(g.flatten(), d.flatten()) + 0.5 * quadratic(Gamma.times(d.mT).mT, Lambda.times(d)).sum()
        for (Lambda, Gamma), d, g in zip(factors, steps, G, strict=True)
    ]
    return torch.stack(parts).sum()
