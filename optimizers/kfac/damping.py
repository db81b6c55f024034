"""Damping of Kronecker factors: how it is split between them, how rho follows the loss, and the bound on a step.

Every factor M is inverted as M + sqrt(rho) c I. The optimizers differ in c (:func:`tikhonov_split`,
:func:`relative_damping`, or 1); rho follows the loss in the manner of Levenberg and Marquardt.

Shapes: ``L`` layers of one shape at a time, ``out`` outputs, ``k`` inputs and a column for the bias.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..parts import Part
from ..ranges import POSITIVE, Range, check_arguments
from .factors import Factor

MIN_RHO, MAX_RHO = 1e-10, 1e4

PHI = Range(lambda value: 0 < value <= 1, "lie in (0, 1]")
"""Range of the factor by which rho changes."""


class DampingSchedule(Part, ABC):
    """Schedule of the damping rho from step to step.

    Args:
        optimizer: Name of the optimizer, for messages.
        rho: Damping at first.

    A schedule's own options are the keyword-only parameters of its constructor.

    Attributes:
        is_constant: Whether rho never changes.
        uses_ratio: Whether the loss after the step is needed at a refresh, for one more forward pass.

    Raises:
        ValueError: If an argument is out of range.
    """

    kind = "damping_schedule"
    is_constant: ClassVar[bool] = False
    uses_ratio: ClassVar[bool] = False

    def __init__(self, optimizer: str, rho: float) -> None:
        requirement = f"{POSITIVE.requirement}: it is the damping of the factors"
        check_arguments(optimizer, [("rho", rho, POSITIVE.judge(rho)[0], requirement)])
        self.rho = rho

    def before_step(self, state: dict[str, Any], loss: Tensor) -> None:
        """Change ``state["rho"]`` by the loss of the batch, ()."""

    def after_refresh(self, state: dict[str, Any], change: Tensor, predicted: Tensor) -> None:
        """Change ``state["rho"]`` by the change of the loss and the one predicted, each ()."""


class ConstantDamping(DampingSchedule):
    """rho stays as it is."""

    name, is_constant = "none", True


class AdaptiveDamping(DampingSchedule):
    """Base class of the schedules that change rho by a factor.

    Args:
        optimizer: Name of the optimizer, for messages.
        rho: Damping at first.
        phi: Factor by which rho is changed.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, optimizer: str, rho: float, *, phi: float = 0.99) -> None:
        super().__init__(optimizer, rho)
        check_arguments(optimizer, [("phi", phi, *PHI.judge(phi))])
        self.phi = phi


class LossSchedule(AdaptiveDamping):
    """rho phi where the loss fell since the last step, rho / phi where it rose."""

    name = "loss"

    def before_step(self, state: dict[str, Any], loss: Tensor) -> None:
        """Compare with the loss of the last step."""
        loss = loss.double()
        state["rho"], state["loss"] = by_loss(state["rho"], loss, state["loss"], self.phi), loss


class RatioSchedule(AdaptiveDamping):
    """Damping adapted by the reduction ratio at every refresh (Martens and Grosse, 2015, section 6.5)."""

    name, uses_ratio = "ratio", True

    def after_refresh(self, state: dict[str, Any], change: Tensor, predicted: Tensor) -> None:
        """Compare the change of the loss with the prediction of the quadratic model."""
        state["rho"] = by_ratio(state["rho"], change, predicted, self.phi)


def by_loss(rho: Tensor, loss: Tensor, previous: Tensor, phi: float) -> Tensor:
    """Return rho phi where the loss fell from the last step to this one, rho / phi where it rose; ().

    The papers name the scheme and phi, not the rule; this is the simplest rule.
    """
    changed = torch.where(loss < previous, rho * phi, torch.where(loss > previous, rho / phi, rho))
    return changed.clamp(MIN_RHO, MAX_RHO)


def by_ratio(rho: Tensor, change: Tensor, predicted: Tensor, phi: float) -> Tensor:
    """Return rho phi where the loss fell by more than 3/4 of the predicted change, rho / phi below 1/4; ().

    Args:
        rho: Damping.
        change: L(theta + d) - L(theta) on the same batch.
        predicted: g'd + d'Fd / 2; where it is not negative the model predicts nothing, and the damping is raised.
        phi: Below 1.
    """
    ratio = torch.where(predicted < 0, change / predicted, -1.0)
    raised = (ratio < 0.25) | ratio.isnan()
    changed = torch.where(ratio > 0.75, rho * phi, torch.where(raised, rho / phi, rho))
    return changed.clamp(MIN_RHO, MAX_RHO)


def predicted_change(factors: Sequence[tuple[Factor, Factor]], steps: Sequence[Tensor], G: Sequence[Tensor]) -> Tensor:
    """Return g'd + d'Fd / 2 of a step d, with d'Fd = tr(d' g_factor d a_factor), ().

    Args:
        factors: a_factor and g_factor of every group of layers.
        steps: d of every group, (L, out, k).
        G: The gradient, likewise.
    """
    parts = [
        torch.dot(g.flatten(), d.flatten()) + 0.5 * (g_factor.times(d.mT).mT * a_factor.times(d)).sum((-2, -1)).sum()
        for (a_factor, g_factor), d, g in zip(factors, steps, G, strict=True)
    ]
    return torch.stack(parts).sum()


def tikhonov_split(a_mean: Tensor, g_mean: Tensor) -> Tensor:
    """Return pi of Martens and Grosse (2015, section 6.3), the root of the ratio of the mean eigenvalues, (L,).

    (Lambda + pi c I) (x) (Gamma + c / pi I), c^2 = rho, is the factored approximation to Lambda (x) Gamma + rho I whose
    cross terms have the least trace norm. pi is 1 where one of the factors is zero.
    """
    ratio = a_mean / g_mean
    return torch.where((ratio > 0) & ratio.isfinite(), ratio, 1).sqrt()


def relative_damping(norms: Tensor, largest: Tensor, minimum: float) -> Tensor:
    """Return c_i = max(|M_i|, minimum max_j |M_j|), (L,); GRNG eq. 10a is ``minimum`` 0.

    A factor that is zero, as is the Gamma of lora_A while lora_B is, would otherwise not be damped at all.
    """
    return norms.maximum(minimum * largest)


def clip_scale(kl: Tensor, max_kl: float) -> Tensor:
    """Return the factor min(1, sqrt(max_kl / kl)) of a step that bounds its predicted KL divergence, ().

    Args:
        kl: Half of step' gradient: an upper bound of half of d'Fd, for (F + damping) d = gradient.
        max_kl: kappa, after Ba et al. (2017).
    """
    return (max_kl / kl.clamp_min(torch.finfo(kl.dtype).tiny)).sqrt().clamp_max(1)


def least_trace(G: Tensor, a_trace: Tensor) -> Tensor:
    """Return the least trace of the g_factor for the purpose of damping, eps |G|^2 / tr(a_factor), (L,).

    Where a softmax is saturated, labels drawn from it never differ from its prediction and the sampled g_factor is
    zero, as is a damping relative to it; the step of a gradient that is not zero is then zero, or of any length. The
    second moment of the output gradients at the observed labels is at least |G|^2 / tr(a_factor), for G = E[ex'].

    Args:
        G: Gradients of the layers, (L, out, k).
        a_trace: Trace of the a_factors, (L,).
    """
    observed = G.square().sum((-2, -1)) / a_trace
    return (torch.finfo(G.dtype).eps * observed).nan_to_num(0, 0, 0)


def reachable_scale(decrease: Tensor, loss: Tensor) -> Tensor:
    """Return the factor of a step whose predicted decrease of the loss is no more than the loss, which is not negative.

    The KL divergence that is predicted with vanishing factors bounds nothing; this is Polyak's step in their metric.

    Args:
        decrease: First-order decrease of the loss along the step, ().
        loss: The loss, ().
    """
    return torch.where(decrease > loss, loss.to(decrease.dtype) / decrease, 1)
