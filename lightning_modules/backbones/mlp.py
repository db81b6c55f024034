"""A small network on numbers: the columns of a table, or the features of a dict."""

from __future__ import annotations

from typing import Any

import torch
from filtune.datamodules import Task
from torch import Tensor, nn
from typing_extensions import Self

from .base import Backbone, BackboneConfig

HIDDEN = 32
"""Units of each of the two hidden layers."""


class MLP(nn.Module):
    """Two hidden layers of rectified linear units and a linear head; 1,954 parameters for 16 features and 2 outputs.

    Args:
        features: Inputs of the first layer.
        outputs: m.
        hidden: Units of each hidden layer.
    """

    def __init__(self, features: int, outputs: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, m) of features (B, F)."""
        return self.head(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class MLPBackbone(Backbone):
    """A multilayer perceptron with random weights on standardised features, which the learner makes of its samples."""

    modality = "table"
    names = ("mlp",)

    @classmethod
    def build(cls, config: BackboneConfig, task: Task) -> Self:
        """Return the network with an input for each of ``task.features``.

        Raises:
            ValueError: If the task has no features.
        """
        if not task.features:
            raise ValueError(f"model.backbone.name: {config.name} takes features, but the task {task.name} has none")
        return cls(MLP(task.features, task.outputs), ("head",))

    def preprocess(self, batch: dict[str, Any]) -> Tensor:
        """Return the features (B, F) on the model's device."""
        return batch["table"].to(self.device, self.dtype)
