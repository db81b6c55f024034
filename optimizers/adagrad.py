"""AdaGrad (Duchi et al., 2011), torch's own."""

from __future__ import annotations

import torch

from .base import FirstOrder


class AdaGrad(FirstOrder, torch.optim.Adagrad):  # type: ignore[misc]
    """``torch.optim.Adagrad`` driven by a closure.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate; LoKO's paper uses 1e-3.
        lr_decay: Decay of the learning rate with the step count.
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
