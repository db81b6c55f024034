"""From stored images to tensors."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def decode(value: Any, folder: Path) -> Tensor:
    """The pixels of an image, (C, H, W): uint8 in 0..255, or float32.

    Grey images have one channel; colours, with or without palette, three; transparency is dropped. 16-bit images
    become floats in 0..1, and float images stay as they are. Nested lists may be (H, W), (C, H, W) or (H, W, C).

    Args:
        value: Bytes, path, dict of the two, or nested lists.
        folder: What a path is relative to.

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
                pixels = _from_file(image)
    except Exception as error:  # the decoders raise errors of every kind on corrupt data
        raise ValueError("undecodable image") from error
    if pixels.is_floating_point() and not pixels.isfinite().all():
        raise ValueError("NaN or infinite pixel")
    return pixels


def _from_file(image: Image.Image) -> Tensor:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        pixels = np.array(image)
    elif image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.float32) / 65535
    else:
        grey = image.mode in ("1", "L", "LA", "La")
        pixels = np.array(image.convert("L" if grey else "RGB"))
    return _channels_first(torch.from_numpy(pixels))


def _from_lists(value: list) -> Tensor:
    pixels = np.array(value)
    if not np.issubdtype(pixels.dtype, np.number) or pixels.ndim not in (2, 3):
        raise ValueError
    integer = np.issubdtype(pixels.dtype, np.integer)
    if integer and (pixels.min() < 0 or pixels.max() > 255):
        raise ValueError
    return _channels_first(torch.from_numpy(pixels.astype(np.uint8 if integer else np.float32)))


def _channels_first(pixels: Tensor) -> Tensor:
    if pixels.ndim == 2:
        return pixels.unsqueeze(0)
    channels_last = pixels.shape[2] in (1, 3, 4) and pixels.shape[0] not in (1, 3, 4)
    return (pixels.permute(2, 0, 1) if channels_last else pixels).contiguous()
