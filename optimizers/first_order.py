"""AdamW, AdaGrad and SGD: torch's own first-order rules, driven by a closure.

All three are given the gradient g of the mean negative log-likelihood of the samples of all ranks. Another rule of
torch takes a class of the same kind, ``class RMSprop(FirstOrder, torch.optim.RMSprop)``.
"""

from __future__ import annotations

import torch

from .base import FirstOrder


class AdamW(FirstOrder, torch.optim.AdamW):  # type: ignore[misc]
    r"""Adam with decoupled weight decay.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \quad v \leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        \theta &\leftarrow \theta - \alpha \lambda \theta
        - \alpha\, \frac{m / (1 - \beta_1^k)}{\sqrt{v / (1 - \beta_2^k)} + \epsilon}

    Source: Loshchilov and Hutter (2017), [arXiv:1711.05101](https://arxiv.org/abs/1711.05101), Algorithm 2, as
    ``torch.optim.AdamW`` implements it.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate alpha, zero or positive; LoKO's paper uses 1e-4 with linear decay.
        betas: Decay of the averages of the gradient and of its square, beta_1 and beta_2, each in [0, 1).
        eps: Term epsilon that is added to the root of the squares' average, against division by zero.
        weight_decay: Decoupled weight decay lambda, zero or positive; LoKO's paper uses 1e-4.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> import torch
        >>> from filtune import AdamW, Categorical
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = AdamW(model.parameters(), lr=0.1)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> losses = [optimizer.step(lambda: Categorical(model(x)).observe(y)).nll().item() for _ in range(20)]
        >>> losses[-1] < 0.5 * losses[0]
        True
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
    r"""Gradient steps divided by the root of the summed squares.

    .. math::
        s \leftarrow s + g \odot g, \quad
        \theta \leftarrow \theta - \frac{\alpha}{1 + (k - 1)\, \eta}\, \frac{g}{\sqrt{s} + \epsilon}

    Source: Duchi, Hazan and Singer (2011), [JMLR 12, 2121-2159](https://jmlr.org/papers/v12/duchi11a.html), as
    ``torch.optim.Adagrad`` implements it.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate alpha, zero or positive; LoKO's paper uses 1e-3.
        lr_decay: Decay eta of the learning rate with the step k, zero or positive.
        eps: Term epsilon that is added to the root of the accumulated squares, against division by zero.
        weight_decay: L2 penalty, which is added to the gradient, zero or positive; LoKO's paper uses none.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        The first step of every entry has the length of the learning rate.

        >>> import torch
        >>> from filtune import AdaGrad, Gaussian
        >>> theta = torch.zeros(1, 1, requires_grad=True)
        >>> optimizer = AdaGrad([theta], lr=0.1)
        >>> seen = optimizer.step(lambda: Gaussian(theta).observe(torch.tensor([2.0])))
        >>> round(theta.item(), 6)
        0.1
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

    Source: Sutskever et al. (2013), [PMLR 28, 1139-1147](https://proceedings.mlr.press/v28/sutskever13.html), as
    ``torch.optim.SGD`` implements it.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate alpha, zero or positive.
        momentum: Momentum factor mu, in [0, 1).
        weight_decay: L2 penalty, which is added to the gradient, zero or positive.
        nesterov: Use Nesterov's momentum, which steps by g + mu b; it needs a positive momentum.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        The gradient of the negative log-likelihood (theta - 2)^2 / 2 at zero is -2.

        >>> import torch
        >>> from filtune import SGD, Gaussian
        >>> theta = torch.zeros(1, 1, requires_grad=True)
        >>> optimizer = SGD([theta], lr=0.1)
        >>> seen = optimizer.step(lambda: Gaussian(theta).observe(torch.tensor([2.0])))
        >>> round(theta.item(), 6)
        0.2
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
