"""Natural gradient descent by K-FAC with Tikhonov damping (Martens and Grosse, 2015), the baseline of GRNG."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .damping import tikhonov_split
from .factors import Factor
from .natural import NaturalOptimizer, Scales, Settings


class NGD(NaturalOptimizer):
    r"""Natural gradient by K-FAC with Tikhonov damping.

    .. math::
        W \leftarrow W - \alpha\, (\Gamma + \sqrt\rho / \pi\, I)^{-1}\, G\, (\Lambda + \pi \sqrt\rho\, I)^{-1}, \quad
        \pi^2 = \frac{\mathrm{tr} \Lambda / k}{\mathrm{tr} \Gamma / \mathrm{out}}

    W is (out, k), the weight and the bias in one matrix; Lambda (k, k) and Gamma (out, out) are its Kronecker factors.
    Call :meth:`attach` before the first step. The equation is number 8 of GRNG.

    Source: Martens and Grosse (2015), [arXiv:1503.05671](https://arxiv.org/abs/1503.05671), sections 3 and 6.3; the
    baseline of Dash et al. (2026), [arXiv:2601.18420](https://arxiv.org/abs/2601.18420), equation 8.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``lr``.
        lr: Learning rate alpha, zero or positive; ``kl_clip`` bounds the step as well.
        rho: Tikhonov damping of the factors; positive.
        phi: Factor, in (0, 1], by which the schedule changes rho.
        damping_schedule: Schedule of rho: ``loss`` (rho falls when the loss falls and rises when it rises), ``ratio``
            (by the reduction ratio at every refresh, which costs one more forward pass) or ``none`` (constant).
        skip: Number of steps from one refresh of the factors to the next; 1 refreshes at every step.
        inverse_method: Inverse of the damped factors: ``cholesky``, ``eigen`` (exact at every damping),
            ``newton-quadratic``, ``newton-cubic`` or ``newton-quartic``.
        fisher_type: Labels of the Fisher information: ``mc`` (one per sample, drawn from the model), ``exact`` (all
            labels, one backward pass each), ``empirical`` (the observed labels), or ``auto`` (exact where it needs no
            further backward pass, else mc).
        factor_decay: Decay of the factors' running averages per refresh, in [0, 1); 0 uses the last refresh only.
        momentum: Decay mu of the dampened momentum, m <- mu m + (1 - mu) step, in [0, 1).
        kl_clip: Upper bound on the KL divergence in nats that a step is predicted to cause; 0 for no bound.
        unsupported_params: Rule for trained parameters without Kronecker factors, such as a norm's weights: ``adamw``
            (AdamW updates them), ``freeze`` (they stay as they are) or ``refuse`` (an error before training).
        fallback_lr: Learning rate of AdamW for the parameters without factors.
        paper_exact: Use the algorithm exactly as in the paper: sampled labels, no average, momentum or KL bound,
            Newton's cubic iteration from A' / tr(A'A), alpha divided by the number of layers. Options that this
            replaces must keep their defaults.

    Raises:
        ValueError: If an argument is out of range, or has no effect beside the others.

    Examples:
        The natural gradient is invariant to the scale of the inputs, which slows gradient descent down. With half of
        the step, every step leaves a quarter of the squared error.

        >>> import torch
        >>> from filtune import NGD, Gaussian
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 2) * torch.tensor([1.0, 100.0])
        >>> y = x @ torch.tensor([1.0, 0.02])
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = NGD(model.parameters(), lr=0.5, momentum=0.0, kl_clip=0.0).attach(model)
        >>> losses = [optimizer.step(lambda: Gaussian(model(x)).observe(y)).nll().item() for _ in range(4)]
        >>> [round(after / before, 2) for before, after in zip(losses, losses[1:])]
        [0.25, 0.25, 0.25]
    """

    shares_inputs: ClassVar[bool] = False  # pi depends on both factors of a layer
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
