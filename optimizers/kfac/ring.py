"""RING, the regularised implicit natural gradient (GRNG, Algorithm 1 with eq. 10a)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..parts import default_arguments
from ..ranges import UP_TO_ONE, check_ranges
from .damping import relative_damping
from .factors import Factor
from .natural import NaturalOptimizer, Scales, Settings, check_paper


class RING(NaturalOptimizer):
    r"""Natural gradient, damped relative to the factors' norms.

    .. math::
        W \leftarrow W - \alpha\, (\Gamma + \sqrt\rho\, \|\Gamma\|_2 I)^{-1}\, G\,
        (\Lambda + \sqrt\rho\, \|\Lambda\|_2 I)^{-1} \quad (10a)

    W is (out, k), the weight and the bias in one matrix; the paper prints the equation for (in, out). Lambda (k, k) and
    Gamma (out, out) are its Kronecker factors. Call :meth:`attach` before the first step.

    RING is the regularised implicit natural gradient of the paper.

    Source: Dash et al. (2026), [arXiv:2601.18420](https://arxiv.org/abs/2601.18420), Algorithm 1 with equation 10a; the
    inverses are equations 11 and 19 to 21.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``lr``.
        lr: Learning rate alpha, zero or positive; ``kl_clip`` bounds the step as well.
        rho: Damping, and the coefficient of the gradient's regularisation; positive.
        phi: Factor, in (0, 1], by which the schedule changes rho; the paper's discount factor.
        damping_schedule: Schedule of rho. ``loss``: rho phi where the loss fell since the last step and rho / phi where
            it rose. ``ratio``: by the reduction ratio at every refresh, for one more forward pass. ``none``: rho is
            constant.
        skip: Number of steps from one refresh of the factors to the next, S; 1 refreshes at every step.
        inverse_method: Inverse of the damped factors: ``cholesky``, ``newton-quadratic``, ``newton-cubic`` or
            ``newton-quartic``, which use eq. 11 at another damping; or ``eigen``, exact at every damping. Factors with
            at least 1024 columns and at most half as many rows are always inverted in the space of their rows
            (Woodbury), exactly; with ``factor_decay`` 0 and no iteration, those of 64 columns, too.
        fisher_type: Labels of the Fisher information. ``mc``: one label per sample, drawn from the model, as in the
            paper. ``exact``: all labels, one backward pass each. ``empirical``: the observed labels. ``auto``: exact
            where it takes no further backward pass (two classes, one value), else mc.
        factor_decay: Decay of the factors' running averages per refresh, in [0, 1); 0 uses the last refresh only.
        momentum: Decay mu of the dampened momentum, m <- mu m + (1 - mu) step, in [0, 1).
        kl_clip: Upper bound on the KL divergence in nats that a step is predicted to cause; 0 for no bound.
        min_relative_damping: Smallest norm by which a factor is damped, as a fraction, in [0, 1], of the largest norm
            among the factors of its kind.
        unsupported_params: Rule for trained parameters without Kronecker factors, such as a norm's weights or DoRA's
            magnitudes. ``adamw``: AdamW updates them, with ``fallback_lr``. ``freeze``: they are not updated.
            ``refuse``: an error before training.
        fallback_lr: Learning rate of AdamW for the parameters without factors.
        paper_exact: Use the algorithm exactly as in the paper: sampled labels, no average, momentum, minimum damping or
            KL bound, Newton's cubic iteration from A' / tr(A'A) (``newton-paper``), alpha divided by the number of
            layers. It diverges with LoRA. Options that this replaces must keep their defaults.

    Raises:
        ValueError: If an argument is out of range, or has no effect beside the others.

    Examples:
        A network with a hidden layer separates two classes that no line separates.

        >>> import torch
        >>> from filtune import RING, Categorical
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 2)
        >>> y = (x[:, 0] * x[:, 1] > 0).long()
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
        >>> optimizer = RING(model.parameters(), kl_clip=0.05).attach(model)
        >>> for _ in range(25):
        ...     seen = optimizer.step(lambda: Categorical(model(x)).observe(y))
        >>> (seen.outputs.argmax(1) == y).float().mean().item() > 0.9
        True
    """

    relative_cost: ClassVar[float] = 1.2  # measured on transformers on a CPU in batches

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1.0,
        rho: float = 5e-4,
        phi: float = 0.999,
        damping_schedule: str = "loss",
        skip: int = 8,
        inverse_method: str = "cholesky",
        fisher_type: str = "auto",
        factor_decay: float = 0.9,
        momentum: float = 0.9,
        kl_clip: float = 1e-3,
        min_relative_damping: float = 0.3,
        unsupported_params: str = "adamw",
        fallback_lr: float = 1e-3,
        paper_exact: bool = False,
    ) -> None:
        check_ranges("RING", {"min_relative_damping": min_relative_damping}, {"min_relative_damping": UP_TO_ONE})
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
        self.min_relative_damping = 0.0 if paper_exact else min_relative_damping
        default = default_arguments(type(self))["min_relative_damping"]
        check_paper("RING", "min_relative_damping", min_relative_damping, default, self.min_relative_damping)
        super().__init__(params, lr, settings, paper_exact)

    def settings(self) -> dict[str, Any]:
        """Return the options, with the smallest relative damping."""
        return {**super().settings(), "min_relative_damping": self.min_relative_damping}

    def scales(self, a_factors: list[Factor], g_factors: list[Factor], least: list[Tensor]) -> Scales:
        """Return c = |M|_2, at least a fraction of the largest norm; eq. 10a."""
        return self._relative(a_factors), self._relative(g_factors)

    def _relative(self, factors: list[Factor]) -> list[Tensor]:
        norms = [factor.spectral_norm() for factor in factors]
        largest = torch.cat(norms).max()
        return [relative_damping(norm, largest, self.min_relative_damping) for norm in norms]
