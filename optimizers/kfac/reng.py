"""RENG, the regularised explicit natural gradient (GRNG, Algorithm 1 with eq. 10b)."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..layer_hooks import is_compiled
from .factors import Factor
from .natural import NaturalOptimizer, Scales, Settings
from .unsupported import fused_attention


class RENG(NaturalOptimizer):
    r"""Natural gradient of the loss with a penalty on its gradient, by double backpropagation (GRNG eqs. 9 and 10b).

    .. math::
        W \leftarrow W - \alpha\, (\Gamma + \sqrt\rho I)^{-1}\, \nabla_W \left(\mathcal{L} + \tfrac{c}{2}
        \|\nabla \mathcal{L}\|^2\right) (\Lambda + \sqrt\rho I)^{-1} \quad (9, 10b)

    W is (out, k), the weight and the bias in one matrix; the paper prints the equation for (in, out). The expectation
    in eq. 9, of the gradient over the model's own labels, is zero for every model; the batch's gradient is used. The
    penalty is applied at the refreshes, as in Algorithm 1. Fused attention has no second derivative; torch's plain
    attention is used at the refreshes instead. Call :meth:`attach` before the first step. :class:`RING` explains the
    options from ``phi`` on.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``lr``.
        lr: Learning rate, alpha; ``kl_clip`` bounds the step as well.
        rho: Damping.
        grad_penalty: Coefficient of the penalty, c ("Grad Reg." in the paper's tables); 0 for none.
        phi: Factor by which rho follows the loss.
        damping_schedule: How rho follows the loss: ``loss``, ``ratio`` or ``none``.
        skip: Steps between two refreshes of the factors, S.
        inverse_method: ``cholesky``, ``eigen``, ``newton-quadratic``, ``newton-cubic`` or ``newton-quartic``.
        fisher_type: Labels of the Fisher information: ``auto``, ``mc``, ``exact`` or ``empirical``.
        factor_decay: Decay of the factors' running averages, per refresh.
        momentum: mu of the dampened momentum.
        kl_clip: Upper bound on the predicted KL divergence of a step; 0 for none.
        unsupported_params: Parameters without factors: ``adamw``, ``freeze`` or ``refuse``.
        fallback_lr: AdamW's learning rate for them.
        paper_exact: Use the algorithm exactly as in the paper: sampled labels, no average, momentum or KL bound,
            Newton's cubic iteration from A' / tr(A'A), alpha divided by the number of layers.

    Raises:
        ValueError: If an argument is out of range.
    """

    relative_cost: ClassVar[float] = 1.3  # measured on transformers on a CPU in batches

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1.0,
        rho: float = 8e-4,
        grad_penalty: float = 0.01,
        phi: float = 0.999,
        damping_schedule: str = "loss",
        skip: int = 8,
        inverse_method: str = "cholesky",
        fisher_type: str = "auto",
        factor_decay: float = 0.9,
        momentum: float = 0.9,
        kl_clip: float = 1e-3,
        unsupported_params: str = "adamw",
        fallback_lr: float = 1e-3,
        paper_exact: bool = False,
    ) -> None:
        settings = Settings(
            rho=rho,
            phi=phi,
            damping_schedule=damping_schedule,
            skip=skip,
            inverse_method=inverse_method,
            fisher_type=fisher_type,
            factor_decay=factor_decay,
            momentum=momentum,
            kl_clip=kl_clip,
            unsupported_params=unsupported_params,
            fallback_lr=fallback_lr,
            grad_penalty=grad_penalty,
        )
        super().__init__(params, lr, settings, paper_exact)

    def attach(self, model: nn.Module) -> Self:
        """Watch the model's layers, and warn where another attention will be used.

        Raises:
            ValueError: If the model is compiled, or there are parameters without factors that are refused.
        """
        if self.options.grad_penalty and is_compiled(model):
            raise ValueError(
                "RENG: a model under torch.compile has no second derivative; leave it as it is, or set grad_penalty 0"
            )
        if self.options.grad_penalty and fused_attention(model):
            warnings.warn(
                "RENG: fused attention has no second derivative; at every refresh of the factors torch's plain "
                "attention is used instead",
                stacklevel=2,
            )
        return super().attach(model)

    def scales(self, a_factors: list[Factor], g_factors: list[Factor], least: list[Tensor]) -> Scales:
        """Return c = 1; eq. 10b."""
        ones = [torch.ones_like(factor.trace()) for factor in [*a_factors, *g_factors]]
        return ones[: len(a_factors)], ones[len(a_factors) :]
