"""Initialisation of the weights of a network that is not pre-trained."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "kaiming_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
}
"""Glorot and Bengio (2010) with gain 1; He et al. (2015) with the gain of rectified linear units."""


def initialize_weights(model: nn.Module, rule: str) -> None:
    """Draw the weights of all layers from torch's global generator, and set their biases to zero.

    Weights of one dimension, such as those of normalisation layers, stay as they are.

    Args:
        model: The network.
        rule: One of ``RULES``.
    """
    for layer in model.modules():
        weight, bias = (getattr(layer, name, None) for name in ("weight", "bias"))
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            RULES[rule](weight)
            if isinstance(bias, nn.Parameter):
                nn.init.zeros_(bias)
