"""AdamW (Loshchilov and Hutter, 2017), torch's own."""

from __future__ import annotations

import torch

from .base import FirstOrder


class AdamW(FirstOrder, torch.optim.AdamW):  # type: ignore[misc]
    """``torch.optim.AdamW`` driven by a closure.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate; LoKO's paper uses 1e-4 with linear decay.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay; LoKO's paper uses 1e-4.
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
