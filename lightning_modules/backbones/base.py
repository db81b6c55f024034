"""What the training step asks of a backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Backbone(nn.Module):
    """A model with its own preprocessing: raw batch -> inputs -> outputs.

    Args:
        model: Maps the inputs to outputs (B, m).
        head: Names of the sub-modules of ``model`` that make its head; they are trained beside an adapter.
    """

    def __init__(self, model: nn.Module, head: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.head = model, head

    def preprocess(self, batch: dict[str, Any]) -> Any:
        """Turn a raw batch (texts or images) into the model's inputs, on the model's device."""
        raise NotImplementedError

    def forward(self, inputs: Any) -> Tensor:
        """Outputs (B, m)."""
        raise NotImplementedError
