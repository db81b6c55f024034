"""Stochastic gradient descent, torch's own."""

from __future__ import annotations

import torch

from .base import FirstOrder


class SGD(FirstOrder, torch.optim.SGD):  # type: ignore[misc]
    """``torch.optim.SGD`` driven by a closure.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        momentum: Momentum factor.
        weight_decay: L2 penalty.
        nesterov: Use Nesterov's momentum.
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
