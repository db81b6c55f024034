"""Natural gradient descent by K-FAC with Tikhonov damping (Martens and Grosse, 2015), the baseline of GRNG."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .damping import tikhonov_split
from .factors import Factor
from .natural import NaturalOptimizer, Scales, Settings


class NGD(NaturalOptimizer):
    r"""Natural gradient with factored Tikhonov damping (GRNG eq. 8).

    .. math::
        W \leftarrow W - \alpha\, (\Gamma + \sqrt\rho / \pi\, I)^{-1}\, G\, (\Lambda + \pi \sqrt\rho\, I)^{-1}, \quad
        \pi^2 = \frac{\mathrm{tr} \Lambda / k}{\mathrm{tr} \Gamma / \mathrm{out}}

    W is (out, k), the weight and the bias in one matrix; Lambda (k, k) and Gamma (out, out) are its Kronecker factors.
    Call :meth:`attach` before the first step. :class:`RING` explains the options from ``damping_schedule`` on.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``lr``.
        lr: Learning rate, alpha; ``kl_clip`` bounds the step as well.
        rho: Tikhonov damping.
        phi: Factor by which rho follows the loss.
        damping_schedule: How rho follows the loss: ``loss``, ``ratio`` or ``none``.
        skip: Steps between two refreshes of the factors.
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

    relative_cost: ClassVar[float] = 1.8  # measured on transformers on a CPU in batches

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1.0,
        rho: float = 1e-4,
        phi: float = 0.99,
        damping_schedule: str = "loss",
        skip: int = 1,
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
        )
        super().__init__(params, lr, settings, paper_exact)

    def scales(self, a_factors: list[Factor], g_factors: list[Factor], least: list[Tensor]) -> Scales:
        """Return c = pi for the ``a_factors`` and 1 / pi for the ``g_factors``."""
        a_means = [factor.trace() / factor.columns for factor in a_factors]
        g_means = [factor.trace().maximum(t) / factor.columns for factor, t in zip(g_factors, least, strict=True)]
        pis = [tikhonov_split(*pair) for pair in zip(a_means, g_means, strict=True)]
        return pis, [1 / pi for pi in pis]
