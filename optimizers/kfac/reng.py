"""RENG, the regularised explicit natural gradient (GRNG, Algorithm 1 with eq. 10b)."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from typing_extensions import Self

from .factors import Factor
from .natural import NaturalOptimizer, Scales
from .settings import Settings
from .unfactored import fused_attention


class RENG(NaturalOptimizer):
    r"""Natural gradient of the loss with a penalty on its gradient, by double backpropagation.

    .. math::
        W \leftarrow W - \alpha\, (\Gamma + \sqrt\rho I)^{-1}\, \nabla_W \left(\mathcal{L} + \tfrac{c}{2}
        \|\nabla \mathcal{L}\|^2\right) (\Lambda + \sqrt\rho I)^{-1} \quad (9, 10b)

    for W (out, in); the paper prints it for (in, out). Eq. 9's expectation of the gradient over the model's own labels
    is zero for every model, so the batch's gradient is meant. The penalty is there at the refreshes, as in Algorithm 1;
    torch's plain attention takes the place of the fused one then, which has no second derivative. It needs
    :meth:`attach`.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``lr``.
        lr: Learning rate, alpha.
        rho: Damping.
        grad_reg: Coefficient of the penalty, c ("Grad Reg." in the paper's tables).
        phi: Factor by which rho follows the loss; see :class:`RING`, as for all that follows.
        adapt: ``loss``, ``ratio`` or ``none``.
        skip: Steps between two refreshes of the factors, S.
        inverse: ``cholesky``, ``eigen``, ``newton-quadratic``, ``newton-cubic`` or ``newton-quartic``.
        fisher: ``auto``, ``sampled``, ``exact`` or ``empirical``.
        factor_decay: Of the factors' running average, per refresh.
        momentum: mu of the dampened momentum.
        kl_clip: Most of the KL divergence that is predicted of a step; 0 for no bound.
        unfactored: ``adamw``, ``freeze`` or ``refuse``.
        unfactored_lr: AdamW's learning rate.
        literal: As printed: labels sampled, no average, momentum or clip, alpha divided by the number of layers.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1.0,
        rho: float = 8e-4,
        grad_reg: float = 0.01,
        phi: float = 0.999,
        adapt: str = "loss",
        skip: int = 8,
        inverse: str = "cholesky",
        fisher: str = "auto",
        factor_decay: float = 0.9,
        momentum: float = 0.9,
        kl_clip: float = 1e-3,
        unfactored: str = "adamw",
        unfactored_lr: float = 1e-3,
        literal: bool = False,
    ) -> None:
        settings = Settings(
            rho,
            phi,
            adapt,
            skip,
            inverse,
            fisher,
            factor_decay,
            momentum,
            kl_clip,
            unfactored,
            unfactored_lr,
            grad_reg=grad_reg,
        )
        super().__init__(params, lr, settings.as_printed() if literal else settings)

    def attach(self, model: nn.Module) -> Self:
        """Watch the model's layers, and say where attention will be another one."""
        if self.settings.grad_reg and fused_attention(model):
            warnings.warn(
                "RENG: fused attention has no second derivative; at every refresh of the factors torch's plain "
                "attention takes its place",
                stacklevel=2,
            )
        return super().attach(model)

    def scales(self, Lambdas: list[Factor], Gammas: list[Factor]) -> Scales:
        """c = 1; eq. 10b."""
        ones = [torch.ones_like(factor.trace()) for factor in [*Lambdas, *Gammas]]
        return ones[: len(Lambdas)], ones[len(Lambdas) :]
