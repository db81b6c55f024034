"""Natural gradient descent by K-FAC with Tikhonov damping (Martens and Grosse, 2015), the baseline of GRNG."""

from __future__ import annotations

import torch

from .factors import Factor
from .kronecker import tikhonov_split
from .natural import NaturalOptimizer, Scales
from .settings import Settings


class NGD(NaturalOptimizer):
    r"""Natural gradient with factored Tikhonov damping.

    .. math::
        W \leftarrow W - \alpha\, (\Gamma + \sqrt\rho / \pi\, I)^{-1}\, G\, (\Lambda + \pi \sqrt\rho\, I)^{-1}, \quad
        \pi^2 = \frac{\mathrm{tr} \Lambda / k}{\mathrm{tr} \Gamma / \mathrm{out}}

    It needs :meth:`attach`.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``lr``.
        lr: Learning rate, alpha.
        rho: Tikhonov damping.
        phi: Factor by which rho follows the loss; see :class:`RING`, as for all that follows.
        adapt: ``loss``, ``ratio`` or ``none``.
        skip: Steps between two refreshes of the factors.
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
        rho: float = 1e-4,
        phi: float = 0.99,
        adapt: str = "loss",
        skip: int = 1,
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
            rho, phi, adapt, skip, inverse, fisher, factor_decay, momentum, kl_clip, unfactored, unfactored_lr
        )
        super().__init__(params, lr, settings.as_printed() if literal else settings)

    def scales(self, Lambdas: list[Factor], Gammas: list[Factor]) -> Scales:
        """c = pi and 1 / pi."""
        means = [[factor.trace() / factor.columns for factor in factors] for factors in (Lambdas, Gammas)]
        pis = [tikhonov_split(*pair) for pair in zip(*means, strict=True)]
        return pis, [1 / pi for pi in pis]
