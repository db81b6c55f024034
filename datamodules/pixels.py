"""From stored images to tensors."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def decode(value: Any, folder: Path, side: int | None = None) -> Tensor:
    """The pixels of an image, (C, H, W): uint8 in 0..255, or float32.

    Grey images have one channel; colours, with or without palette, three; transparency is dropped. 16-bit images
    become floats in 0..1, and float images stay as they are. Nested lists may be (H, W), (C, H, W) or (H, W, C),
    with fewer channels than rows.

    Args:
        value: Bytes, path, dict of the two, or nested lists.
        folder: What a path is relative to.
        side: Where the shorter side of an image file is longer than this, it is brought to it, and the middle of the
            longer side is kept; none leaves images as they are.

    Raises:
        ValueError: If there is no image, it cannot be decoded, or a pixel is not a finite number.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None or value == "":
        raise ValueError("missing image")
    try:
        if isinstance(value, list):
            pixels = _from_lists(value)
        else:
            with Image.open(BytesIO(value) if isinstance(value, bytes) else folder / value) as image:
                pixels = _from_file(image if side is None else _reduced(image, side))
    except Exception as error:  # the decoders raise errors of every kind on corrupt data
        raise ValueError("undecodable image") from error
    if pixels.is_floating_point() and not pixels.isfinite().all():
        raise ValueError("NaN or infinite pixel")
    return pixels


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """A square of the middle of an image, antialiased; a JPEG is decoded at no more than twice the size needed."""
    if min(image.size) <= side:
        return image
    image.draft(None, (side, side))
    return ImageOps.fit(_plain(ImageOps.exif_transpose(image)), (side, side), Image.Resampling.BICUBIC)


def _plain(image: Image.Image) -> Image.Image:
    """Grey or three colours, which can be averaged, unlike palettes; without transparency, which would weigh them."""
    if image.mode == "F" or image.mode.startswith("I"):
        return image
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def _from_file(image: Image.Image) -> Tensor:
    image = _plain(ImageOps.exif_transpose(image))
    pixels = np.array(image)
    if image.mode.startswith("I"):
        pixels = pixels.astype(np.float32) / 65535
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous()


def _from_lists(value: list) -> Tensor:
    pixels = np.array(value)
    if not np.issubdtype(pixels.dtype, np.number) or pixels.ndim not in (2, 3):
        raise ValueError
    integer = np.issubdtype(pixels.dtype, np.integer)
    if integer and (pixels.min() < 0 or pixels.max() > 255):
        raise ValueError
    tensor = torch.from_numpy(np.atleast_3d(pixels).astype(np.uint8 if integer else np.float32))
    # the axis of the channels is the shorter one; (H, W) has got its single channel as the last
    last = tensor.shape[2] < tensor.shape[0] or pixels.ndim == 2
    return (tensor.permute(2, 0, 1) if last else tensor).contiguous()
