"""Image backbones: preprocessing of images, and timm's models."""

from __future__ import annotations

from typing import Any

import timm
import torch
from filtune.datamodules import Task
from torch import Tensor, nn
from typing_extensions import Self

from .base import Backbone, BackboneConfig, check_weights_available


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


class TimmBackbone(ImageBackbone):
    """A timm model by name, with a fresh head of m outputs."""

    library = "timm"

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Return True: ``build`` names the similar ones where timm has none of that name."""
        return True

    @classmethod
    def build(cls, config: BackboneConfig, task: Task) -> Self:
        """Return the model with the preprocessing its weights were trained with.

        Raises:
            ValueError: If timm does not know the name, or the weights are not available.
        """
        if not timm.is_model(config.name):
            close = ", ".join(timm.list_models(f"*{config.name.split('.')[0][:6]}*")[:8]) or "see timm.list_models()"
            raise ValueError(f"model.backbone.name: timm has no model {config.name!r}; similar: {close}")
        weights = timm.get_pretrained_cfg(config.name)
        if config.pretrained and weights is not None and weights.hf_hub_id:
            remedy = "without a network set --model.backbone.pretrained false for random weights"
            check_weights_available(weights.hf_hub_id, remedy)
        # a transformer is built for one size, to which its position embeddings are fitted
        fixed = config.image_size is not None and weights is not None and weights.fixed_input_size
        options = {"img_size": config.image_size} if fixed else {}
        try:
            model = timm.create_model(config.name, pretrained=config.pretrained, num_classes=task.outputs, **options)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"model.backbone.name: the weights of {config.name} cannot be had ({str(error).splitlines()[0]}); "
                "with a network they are downloaded, without one set --model.backbone.pretrained false"
            ) from error
        settings = timm.data.resolve_data_config({}, model=model)
        channels, size, _ = settings["input_size"]
        head = model.default_cfg["classifier"]
        names = (head,) if isinstance(head, str) else tuple(head)
        kind = "bilinear" if settings["interpolation"] == "bilinear" else "bicubic"
        size = config.image_size or size
        return cls(model, names, size, channels, settings["mean"], settings["std"], interpolation=kind)
