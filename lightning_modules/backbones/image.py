"""Image backbones: preprocessing of images to one size, normalised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import Backbone


class ImageBackbone(Backbone):
    """A model on images of one size, normalised by channel.

    Args:
        model: Maps (B, C, size, size) to (B, m).
        head: Names of the head's sub-modules.
        size: Side of the image the model sees.
        channels: Channels the model sees; grey images are repeated, colours averaged to fit.
        mean: Mean of each channel, of pixels in 0..1.
        std: Standard deviation of each channel.
        interpolation: How images are resized, ``bilinear`` or ``bicubic``.
    """

    modality = "image"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        head: tuple[str, ...],
        size: int,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(model, head)
        self.size, self.channels, self.interpolation = size, channels, interpolation
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def preprocess(self, batch: dict[str, Any]) -> Tensor:
        """Return images of any size, uint8 or float, as (B, C, size, size), resized and normalised.

        The shorter side is resized to the model's size, and the middle of the longer one is kept.
        """
        images = batch["image"]
        if isinstance(images, Tensor):
            pixels = self._fit(images)
        else:
            pixels = torch.cat([self._fit(image.unsqueeze(0)) for image in images])
        return (pixels - self.mean) / self.std

    def input_settings(self) -> dict[str, Any]:
        """Return size, channels, normalisation and interpolation."""
        return {
            "image_size": self.size,
            "channels": self.channels,
            "mean": [round(float(value), 5) for value in self.mean.flatten()],
            "std": [round(float(value), 5) for value in self.std.flatten()],
            "interpolation": self.interpolation,
        }

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (B, m) of pixels (B, C, size, size)."""
        return self.model(inputs.to(self.dtype))

    def _fit(self, image: Tensor) -> Tensor:
        image = image.to(self.mean.device, non_blocking=True)
        pixels = image.float() / 255 if image.dtype == torch.uint8 else image
        if pixels.shape[1] != self.channels:
            pixels = pixels.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        if pixels.shape[-2:] == (self.size, self.size):
            return pixels
        scale = self.size / min(pixels.shape[-2:])
        height, width = (max(self.size, round(scale * side)) for side in pixels.shape[-2:])
        pixels = nn.functional.interpolate(
            pixels, (height, width), mode=self.interpolation, align_corners=False, antialias=True
        )
        top, left = (height - self.size) // 2, (width - self.size) // 2
        pixels = pixels[..., top : top + self.size, left : left + self.size]
        # cubic polynomials overshoot at edges, which images do not
        return pixels.clamp(0, 1) if self.interpolation == "bicubic" and image.dtype == torch.uint8 else pixels
