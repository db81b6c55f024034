"""RING, the regularised implicit natural gradient (GRNG, Algorithm 1 with eq. 10a)."""

from __future__ import annotations

import torch
from torch import Tensor

from .factors import Factor
from .kronecker import relative_damping
from .natural import NaturalOptimizer, Scales
from .settings import Settings


class RING(NaturalOptimizer):
    r"""Natural gradient whose damping is relative to each factor's norm.

    .. math::
        W \leftarrow W - \alpha\, (\Gamma + \sqrt\rho\, \|\Gamma\|_2 I)^{-1}\, G\,
        (\Lambda + \sqrt\rho\, \|\Lambda\|_2 I)^{-1} \quad (10a)

    for W (out, in); the paper prints it for (in, out). It needs :meth:`attach`.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``lr``.
        lr: Learning rate, alpha.
        rho: Damping, and the coefficient of the gradient's regularisation.
        phi: Factor by which rho follows the loss; the paper's discount factor.
        adapt: How: ``loss``, rho phi where the loss fell since the last step and rho / phi where it rose; ``ratio``, by
            the reduction ratio at every refresh, for one more forward pass; or ``none``.
        skip: Steps between two refreshes of the factors, S.
        inverse: ``cholesky``, ``newton-quadratic``, ``newton-cubic`` or ``newton-quartic``, from which eq. 11 leads to
            another damping; or ``eigen``, exact at every damping. Factors of 1024 columns and more with half as many
            rows or fewer are always inverted in the space of their rows (Woodbury), exactly.
        fisher: ``sampled`` labels, as in the paper; ``exact``, one backward pass a class; ``empirical``; or ``auto``,
            exact where it costs nothing (two classes, one value), else sampled.
        factor_decay: Of the factors' running average, per refresh.
        momentum: mu of the dampened momentum.
        kl_clip: Most of the KL divergence that is predicted of a step; 0 for no bound.
        floor: Least norm that a factor is damped by, as a share of the largest of its kind.
        unfactored: What becomes of parameters without factors, such as a norm's weights or DoRA's magnitudes: ``adamw``
            moves them, with ``unfactored_lr``; ``freeze`` leaves them; ``refuse`` stops before training.
        unfactored_lr: AdamW's learning rate.
        literal: The algorithm as printed, for the record: labels sampled, no average, momentum, floor or clip, Newton's
            cubic iteration from A' / tr(A'A), and alpha divided by the number of layers. It diverges with LoRA.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1.0,
        rho: float = 5e-4,
        phi: float = 0.999,
        adapt: str = "loss",
        skip: int = 8,
        inverse: str = "cholesky",
        fisher: str = "auto",
        factor_decay: float = 0.9,
        momentum: float = 0.9,
        kl_clip: float = 1e-3,
        floor: float = 0.3,
        unfactored: str = "adamw",
        unfactored_lr: float = 1e-3,
        literal: bool = False,
    ) -> None:
        if not 0 <= floor <= 1:
            raise ValueError(f"RING: floor must lie in [0, 1]; got {floor}")
        settings = Settings(
            rho, phi, adapt, skip, inverse, fisher, factor_decay, momentum, kl_clip, unfactored, unfactored_lr
        )
        self.floor = 0.0 if literal else floor
        super().__init__(params, lr, settings.as_printed() if literal else settings)

    def scales(self, Lambdas: list[Factor], Gammas: list[Factor]) -> Scales:
        """c = |M|_2, but no less than the floor; eq. 10a."""
        return self._relative(Lambdas), self._relative(Gammas)

    def _relative(self, factors: list[Factor]) -> list[Tensor]:
        norms = [factor.spectral_norm() for factor in factors]
        largest = torch.cat(norms).max()
        return [relative_damping(norm, largest, self.floor) for norm in norms]
