"""Decoding of stored images into tensors: files, bytes and nested lists."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .beginnings import LENGTH, known_beginning
from .image_folder import image_formats
from .shown import shown

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")
"""Formats with several frames; those of a photograph (MPO) are the same picture once more."""


class ImageError(ValueError):
    """An image that cannot be read.

    Args:
        reason: What is wrong, in words that other images may share.
        detail: Its path, if it has one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def stored(value: Any, folder: Path) -> Any:
    """Return the bytes of an image file, undecoded; nested lists as they are, and None where there is no image.

    Args:
        value: Bytes, path, dict of the two, or nested lists.
        folder: What a path is relative to.
    """
    path = stored_file(value, folder)
    if path is not None:
        return path.read_bytes()
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    return None if isinstance(value, str) and value else value


def stored_file(value: Any, folder: Path) -> Path | None:
    """Return the file that an image is stored in; None where it is stored as bytes or lists, or there is none.

    Args:
        value: Bytes, path, dict of the two, or nested lists.
        folder: What a path is relative to.
    """
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else None
    return folder / value if isinstance(value, str) and value and os.path.isfile(folder / value) else None


def decode(value: Any, folder: Path, side: int | None = None) -> Tensor:
    """Return the pixels of an image, (C, H, W): see :func:`decode_first`."""
    return decode_first(value, folder, side)[0]


def decode_first(value: Any, folder: Path, side: int | None = None) -> tuple[Tensor, int]:
    """Return the pixels of an image, (C, H, W), uint8 in 0..255 or float32, and the number of its frames.

    Grey images have one channel; colours, with or without palette, three; transparency is dropped. 16-bit images
    become floats in 0..1, and float images stay as they are. Nested lists may be (H, W), (C, H, W) or (H, W, C),
    with fewer channels than rows.

    Args:
        value: Bytes, path, dict of the two, or nested lists.
        folder: What a path is relative to.
        side: Where the shorter side of an image file is longer than this, it is brought to it, and the middle of the
            longer side is kept; none leaves images as they are.

    Raises:
        ImageError: If there is no image, it cannot be decoded, or a pixel is not a finite number.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None or value == "":
        raise ImageError("missing image")
    if isinstance(value, str) and _ADDRESS.match(value):
        raise ImageError("image is an address, which is not fetched", shown(value))
    # unlike those of pathlib, these tests are False of what no file can be called
    if isinstance(value, str) and not os.path.isfile(folder / value):
        raise ImageError(
            "image is a folder" if os.path.isdir(folder / value) else "image not found", str(folder / value)
        )
    frames = 1
    try:
        if isinstance(value, list):
            pixels = pixels_of_array(value)
        else:
            file = BytesIO(value) if isinstance(value, bytes) else folder / value
            with Image.open(file, formats=image_formats()) as image:
                pixels = pixels_of_image(image if side is None else _reduced(image, side))
                frames = _count_frames(image)
    except Exception as error:  # the decoders raise errors of every kind on corrupt data
        raise ImageError("undecodable image", _describe(value, folder, error)) from error
    if pixels.is_floating_point() and not pixels.isfinite().all():
        raise ImageError("NaN or infinite pixel")
    return pixels, frames


def _count_frames(image: Image.Image) -> int:
    """Return the number of frames; 1 where the format has no others, or they are damaged and do not count."""
    with suppress(Exception):  # of every kind, as in decoding
        return image.n_frames if image.format in _ANIMATED else 1  # type: ignore[attr-defined]
    return 1


def _describe(value: Any, folder: Path, error: Exception) -> str:
    """Return the path of an image that cannot be decoded, and what it is, or what the decoder says."""
    path = folder / value if isinstance(value, str) else None
    start = value[:LENGTH] if isinstance(value, bytes) else b""
    if path is not None:
        with path.open("rb") as file:
            start = file.read(LENGTH)
    kind = known_beginning(start) if start or isinstance(value, list | int) else "empty"
    said = "" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())[:100]
    found = f"it is {kind}" if kind else said
    return f"{path} ({found})" if path is not None and found else str(path or found)


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """Return a centred square, antialiased; a JPEG is decoded at no more than twice the size needed."""
    if min(image.size) <= side:
        return image
    image.draft(None, (side, side))
    return ImageOps.fit(_plain(ImageOps.exif_transpose(image)), (side, side), Image.Resampling.BICUBIC)


def _plain(image: Image.Image) -> Image.Image:
    """Return the image in grey or three colours, which can be averaged, unlike palettes, and without transparency."""
    if image.mode == "F" or image.mode.startswith("I"):
        return image
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def pixels_of_image(image: Image.Image) -> Tensor:
    """Return the pixels of an opened image, (C, H, W), as :func:`decode_first` does.

    Raises:
        ValueError: If a pixel has more than 16 bits.
    """
    image = _plain(ImageOps.exif_transpose(image))
    pixels = np.array(image)
    if image.mode.startswith("I"):
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("pixels beyond 16 bits")
        pixels = pixels.astype(np.float32) / 65535
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous()


def pixels_of_array(value: list | np.ndarray) -> Tensor:
    """Return the pixels of nested lists or of an array, (C, H, W), as :func:`decode_first` does.

    Raises:
        ValueError: If they are neither (H, W), (C, H, W) nor (H, W, C), no numbers, or integers beyond 0..255.
    """
    pixels = np.array(value)
    if not np.issubdtype(pixels.dtype, np.number) or pixels.ndim not in (2, 3):
        raise ValueError("neither (H, W) nor (C, H, W) numbers")
    integer = np.issubdtype(pixels.dtype, np.integer)
    if integer and (pixels.min() < 0 or pixels.max() > 255):
        raise ValueError("integers beyond 0..255")
    tensor = torch.from_numpy(np.atleast_3d(pixels).astype(np.uint8 if integer else np.float32))
    # the axis of the channels is the shorter one; (H, W) has got its single channel as the last
    last = tensor.shape[2] < tensor.shape[0] or pixels.ndim == 2
    return (tensor.permute(2, 0, 1) if last else tensor).contiguous()
