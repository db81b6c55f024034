"""Ways for the weights of a network to start (Glorot & Bengio 2010, He et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "kaiming_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
}


def initialise(model: nn.Module, name: str) -> None:
    """Draw all weights from torch's global generator, and set biases to zero.

    Args:
        model: A network without normalisation layers.
        name: One of ``WEIGHTS``; gain 1 for Xavier's, that of rectified linear units for Kaiming's.
    """
    for param in model.parameters():
        if param.dim() > 1:
            WEIGHTS[name](param)
        else:
            nn.init.zeros_(param)
