"""AdamW, AdaGrad and SGD: torch's own first-order rules, driven by a closure.

All three are given the gradient g of the mean negative log-likelihood of the samples of all ranks. Another rule of
torch takes a class of the same kind, ``class RMSprop(FirstOrder, torch.optim.RMSprop)``.
"""

from __future__ import annotations

import torch

from .base import FirstOrder


class AdamW(FirstOrder, torch.optim.AdamW):  # type: ignore[misc]
    r"""Adam with decoupled weight decay (Loshchilov and Hutter, 2017).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \quad v \leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        \theta &\leftarrow \theta - \alpha \lambda \theta
        - \alpha\, \frac{m / (1 - \beta_1^k)}{\sqrt{v / (1 - \beta_2^k)} + \epsilon}

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, alpha; LoKO's paper uses 1e-4 with linear decay.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay, lambda; LoKO's paper uses 1e-4.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


class AdaGrad(FirstOrder, torch.optim.Adagrad):  # type: ignore[misc]
    r"""Steps divided by the root of the accumulated squares (Duchi et al., 2011).

    .. math::
        s \leftarrow s + g \odot g, \quad
        \theta \leftarrow \theta - \frac{\alpha}{1 + (k - 1)\, \eta}\, \frac{g}{\sqrt{s} + \epsilon}

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, alpha; LoKO's paper uses 1e-3.
        lr_decay: Decay of the learning rate with the step k, eta.
        eps: Added to the root of the accumulated squares.
        weight_decay: L2 penalty; LoKO's paper uses none.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1e-3,
        lr_decay: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay)


class SGD(FirstOrder, torch.optim.SGD):  # type: ignore[misc]
    r"""Stochastic gradient descent with momentum.

    .. math::
        b \leftarrow \mu b + g \quad (b = g \text{ at first}), \quad \theta \leftarrow \theta - \alpha\, b

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, alpha.
        momentum: Momentum factor, mu.
        weight_decay: L2 penalty.
        nesterov: Use Nesterov's momentum, which steps by g + mu b.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1e-2,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
