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
    r"""Natural gradient with a penalty on the gradient's norm.

    .. math::
        W \leftarrow W - \alpha\, (\Gamma + \sqrt\rho I)^{-1}\, \nabla_W \left(\mathcal{L} + \tfrac{c}{2}
        \|\nabla \mathcal{L}\|^2\right) (\Lambda + \sqrt\rho I)^{-1} \quad (9, 10b)

    W is (out, k), the weight and the bias in one matrix; the paper prints the equation for (in, out). The penalty is
    differentiated by double backpropagation. The expectation in eq. 9, of the gradient over the model's own labels, is
    zero for every model; the batch's gradient is used. The penalty is applied at the refreshes, as in Algorithm 1.
    Fused attention has no second derivative; torch's plain attention is used at the refreshes instead. Call
    :meth:`attach` before the first step.

    RENG is the regularised explicit natural gradient of the paper.

    Source: Dash et al. (2026), [arXiv:2601.18420](https://arxiv.org/abs/2601.18420), Algorithm 1 with equations 9 and
    10b.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``lr``.
        lr: Learning rate alpha, zero or positive; ``kl_clip`` bounds the step as well.
        rho: Damping of the factors; positive.
        grad_penalty: Coefficient c of the penalty ("Grad Reg." in the paper's tables), zero or positive; 0 for none.
        phi: Factor, in (0, 1], by which the schedule changes rho.
        damping_schedule: Schedule of rho: ``loss`` (rho falls when the loss falls and rises when it rises), ``ratio``
            (by the reduction ratio at every refresh, which costs one more forward pass) or ``none`` (constant).
        skip: Number of steps from one refresh of the factors to the next, S; 1 refreshes at every step.
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
        A network with a hidden layer, in batches; the penalty needs the second derivative of its activation.

        >>> import torch
        >>> from filtune import RENG, Categorical
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 2)
        >>> y = (x[:, 0] * x[:, 1] > 0).long()
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
        >>> optimizer = RENG(model.parameters(), kl_clip=0.05, grad_penalty=0.01).attach(model)
        >>> for _ in range(25):
        ...     seen = optimizer.step(lambda: Categorical(model(x)).observe(y))
        >>> (seen.outputs.argmax(1) == y).float().mean().item() > 0.9
        True
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
