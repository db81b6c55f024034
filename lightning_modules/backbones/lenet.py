"""LeNet-5 (LeCun et al., 1998), the small network of the papers' studies."""

from __future__ import annotations

from typing import ClassVar

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

    Attributes:
        maps: Feature maps of the two convolutions.
        second_kernel: Side of the second one's kernel.
        widths: Inputs of the three dense layers.
    """

    maps: ClassVar[tuple[int, int]] = (6, 16)
    second_kernel: ClassVar[int] = 5
    widths: ClassVar[tuple[int, int, int]] = (400, 120, 84)

    def __init__(self, channels: int = 1, outputs: int = 10) -> None:
        super().__init__()
        (first, second), (flat, wide, narrow) = self.maps, self.widths
        self.conv1 = nn.Conv2d(channels, first, 5, padding=2)
        self.conv2 = nn.Conv2d(first, second, self.second_kernel)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(flat, wide)
        self.fc2 = nn.Linear(wide, narrow)
        self.head = nn.Linear(narrow, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Return the outputs (B, m) of images (B, C, 28, 28)."""
        x = self.pool(torch.relu(self.conv1(image)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.head(torch.relu(self.fc2(x)))


class SmallLeNet(LeNet5):
    """LeNet-5's layers, narrow, on 14 x 14 images; 980 parameters for grey images and 10 outputs.

    A full covariance of its parameters has 960,400 entries.
    """

    maps = (3, 6)
    second_kernel = 3
    widths = (24, 16, 12)


_LOAD_CODE = """\
import torch
from filtune.lightning_modules.backbones.lenet import LeNet5
from safetensors.torch import load_file

model = LeNet5({channels}, {outputs}).eval()
model.load_state_dict(load_file({file!r}))
"""


class LeNet5Backbone(ImageBackbone):
    """LeNet-5 with random weights, for images of any size and number of channels."""

    names = ("lenet5",)
    load_code = _LOAD_CODE
    network: ClassVar[type[LeNet5]] = LeNet5
    side: ClassVar[int] = 28

    @classmethod
    def build(cls, config: BackboneConfig, task: Task) -> Self:
        """Return the network with the data's number of channels.

        Raises:
            ValueError: If the task has no images.
        """
        if task.image_shape is None:
            raise ValueError(f"model.backbone.name: {config.name} takes images, but the task {task.name} has none")
        channels = task.image_shape[0]
        model = cls.network(channels, task.outputs)
        return cls(model, ("head",), cls.side, channels, mean=(MEAN,) * channels, std=(STD,) * channels)


class SmallLeNetBackbone(LeNet5Backbone):
    """A narrow LeNet-5 with random weights, small enough for a full covariance."""

    names = ("lenet_small",)
    load_code = _LOAD_CODE.replace("LeNet5", "SmallLeNet")
    network = SmallLeNet
    side = 14
