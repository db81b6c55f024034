"""Image corruptions of Hendrycks and Dietterich, "Benchmarking neural network robustness" (ICLR 2019), ImageNet-C.

A corruption is a function of pixels in 0..1, one of five constants, and a random generator; adding one is a function
with :func:`corruption` in this file. The constants are those that the paper's authors have published for ImageNet-C;
lengths in pixels are relative to the 224 pixels of an image there. Noise has the same amplitude at every image size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import gaussian_blur as blurred
from torchvision.transforms.v2.functional import jpeg

from .samples import DataError

SEVERITIES = 5
"""Number of severities."""

_SIDE = 224
"""Side in pixels of the images that the constants of lengths are for."""

Corrupt = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


class Corruption(NamedTuple):
    """A kind of corruption.

    Attributes:
        apply: Returns corrupted pixels, (C, H, W), given pixels in 0..1, a constant and a random generator. What is
            beyond 0..1 is clipped afterwards.
        constants: The constant of each severity.
    """

    apply: Corrupt
    constants: tuple[float, ...]


CORRUPTIONS: dict[str, Corruption] = {}
"""Corruptions by name."""


def corruption(*constants: float) -> Callable[[Corrupt], Corrupt]:
    """Return a decorator that registers a function under its name, with its constant for each of the severities."""

    def register(apply: Corrupt) -> Corrupt:
        assert len(constants) == SEVERITIES
        CORRUPTIONS[apply.__name__] = Corruption(apply, constants)
        return apply

    return register


def refuse_range(name: str, least: float, greatest: float, which: str = "an image") -> DataError:
    """Return the error of a corruption of an image with pixels beyond 0..1."""
    return DataError(
        f"--data.segments: corruption {name}: {which} has pixels from {least:g} to {greatest:g}; "
        "corruptions are defined for images of whole numbers, or of floats in 0..1: rescale the images"
    )


def corrupted(image: Tensor, name: str, severity: int, rng: np.random.Generator) -> Tensor:
    """Return a corrupted image, of the same shape and type.

    Args:
        image: Pixels (C, H, W), uint8 in 0..255, or floats in 0..1.
        name: Name of the corruption.
        severity: From 1 to 5.
        rng: Source of the noise.

    Raises:
        DataError: If there are pixels beyond 0..1.
    """
    pixels = image.double().numpy() / (1 if image.is_floating_point() else 255)
    if pixels.min() < 0 or pixels.max() > 1:
        raise refuse_range(name, pixels.min(), pixels.max())
    apply, constants = CORRUPTIONS[name]
    found = torch.from_numpy(apply(pixels, constants[severity - 1], rng).clip(0, 1))
    return found.to(image.dtype) if image.is_floating_point() else (255 * found).round().to(image.dtype)


@corruption(0.08, 0.12, 0.18, 0.26, 0.38)
def gaussian_noise(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return x + c n, n standard normal."""
    return x + rng.normal(scale=c, size=x.shape)


@corruption(60, 25, 12, 5, 3)
def shot_noise(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return k / c, k Poisson with mean c x: photons that are counted."""
    return rng.poisson(c * x) / c


@corruption(0.03, 0.06, 0.09, 0.17, 0.27)
def impulse_noise(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return x with each value replaced with probability c, by 0 or 1 equally often."""
    flipped, salt = rng.random(x.shape) < c, rng.random(x.shape) < 0.5
    return np.where(flipped, salt, x)


@corruption(0.15, 0.2, 0.35, 0.45, 0.6)
def speckle_noise(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return x + x c n, n standard normal."""
    return x + x * rng.normal(scale=c, size=x.shape)


@corruption(1, 2, 3, 4, 6)
def gaussian_blur(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return x convolved with a Gaussian of c pixels of 224, cut at four standard deviations, reflected at the edge."""
    sigma = c * min(x.shape[1:]) / _SIDE
    radius = min(math.ceil(4 * sigma), min(x.shape[1:]) - 1)  # less than the side, so that there is what to reflect
    return blurred(torch.from_numpy(x), 2 * radius + 1, sigma).numpy()


@corruption(0.4, 0.3, 0.2, 0.1, 0.05)
def contrast(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return c (x - mean) + mean, with the mean of each channel over the image."""
    mean = x.mean((1, 2), keepdims=True)
    return c * (x - mean) + mean


@corruption(0.1, 0.2, 0.3, 0.4, 0.5)
def brightness(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return x with c added to its value V in HSV, the largest of a pixel's channels; hue and saturation stay."""
    value = x.max(0, keepdims=True)
    brighter = (value + c).clip(max=1)
    return np.where(value > 0, x * (brighter / np.where(value > 0, value, 1)), brighter)


@corruption(0.6, 0.5, 0.4, 0.3, 0.25)
def pixelate(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return x in blocks: means over boxes of about 1/c pixels a side."""
    height, width = x.shape[1:]
    small = interpolate(torch.from_numpy(x)[None], (max(1, int(c * height)), max(1, int(c * width))), mode="area")
    return interpolate(small, (height, width), mode="nearest-exact")[0].numpy()


@corruption(25, 18, 15, 10, 7)
def jpeg_compression(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Return x after JPEG compression of quality c; without three channels, each one as a grey image."""
    pixels = torch.from_numpy((255 * x).round().astype(np.uint8))
    planes = [pixels] if len(pixels) == 3 else list(pixels.split(1))
    return np.concatenate([jpeg(plane, int(c)).numpy() for plane in planes]) / 255
