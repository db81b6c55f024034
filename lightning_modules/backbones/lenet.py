"""LeNet-5 (LeCun et al., 1998), the small network of the papers' studies."""

from __future__ import annotations

import torch
from filtune.datamodules import Task
from torch import Tensor, nn
from typing_extensions import Self

from .base import BackboneConfig
from .image import ImageBackbone

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels in 0..1."""


class LeNet5(nn.Module):
    """Two convolutions and three dense layers on 28 x 28 images; 61,706 parameters for grey images and 10 outputs.

    Args:
        channels: Image channels.
        outputs: m.
    """

    def __init__(self, channels: int = 1, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Return the outputs (B, m) of images (B, C, 28, 28)."""
        x = self.pool(torch.relu(self.conv1(image)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.head(torch.relu(self.fc2(x)))


class LeNet5Backbone(ImageBackbone):
    """LeNet-5 with random weights, for images of any size and number of channels."""

    names = ("lenet5",)
    load_code = """\
import torch
from filtune.lightning_modules.backbones.lenet import LeNet5
from safetensors.torch import load_file

model = LeNet5({channels}, {outputs}).eval()
model.load_state_dict(load_file({file!r}))
"""

    @classmethod
    def build(cls, config: BackboneConfig, task: Task) -> Self:
        """Return LeNet-5 with the data's number of channels.

        Raises:
            ValueError: If the task has no images.
        """
        if task.image_shape is None:
            raise ValueError(f"model.backbone.name: lenet5 takes images, but the task {task.name} has none")
        channels = task.image_shape[0]
        model = LeNet5(channels, task.outputs)
        return cls(model, ("head",), 28, channels, mean=(MEAN,) * channels, std=(STD,) * channels)
