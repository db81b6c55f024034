"""Images with labels: the data module, the reader of a column of images, and how stored images become tensors."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from .base import at_least
from .image_folder import image_formats
from .samples import BadRow, SplitRef, Subset
from .table import TableDataModule

_MANY = 3000


class ImageDataModule(TableDataModule):
    """A stream of images, as they are: uint8 in 0..255, or float32; resizing belongs to the backbone.

    Args:
        source: A hub id such as ``ylecun/mnist``; a local folder laid out like the hub's; a folder of images with a
            sub-folder for each class; or a file that holds the images, or their paths relative to itself.
        image_column: Column of the images.
        verify: Whether to decode all images of the stream before training, so that a bad one is found first.
            Otherwise a bad image is an error when its turn comes, whatever ``on_bad_row`` says.
        resize: Bring larger images to squares of so many pixels a side as they are decoded, by the workers that fetch
            ahead where there are any (``num_workers``): the shorter side is resized, the middle of the longer one kept.
        cache: ``memory`` keeps decoded images for later epochs, and what ``verify`` has decoded for the first; a
            photograph of 256 pixels a side takes 0.2 MB. What workers decode is gone with them at the end of an epoch:
            with ``num_workers``, let ``verify`` decode the images, or only those for validation are kept.
        **kwargs: The arguments of every table.

    Raises:
        DataError: If an argument is out of range.
    """

    modality: ClassVar = "image"

    def __init__(
        self,
        source: str,
        image_column: str = "image",
        verify: bool = True,
        resize: int | None = None,
        cache: Literal["none", "memory"] = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(source, **kwargs)
        at_least("resize", resize, 1)
        self.image_column, self.verify, self.resize, self.cache = image_column, verify, resize, cache

    @property
    def inputs(self) -> list[str]:
        """Column of the images."""
        return [self.image_column]

    def place(self, split: str) -> SplitRef:
        """Return the split, as messages name it."""
        if self.verify:
            return super().place(split)
        return SplitRef(
            self._title(), split, "correct it, or leave bad rows out with --data.verify true --data.on_bad_row skip"
        )

    def reader(self, table: datasets.Dataset, place: SplitRef) -> ImageReader:
        """Return the reader of the images."""
        source = Path(self.source).expanduser()
        folder = source.parent if source.is_file() else source
        return ImageReader(table, self.image_column, place, folder, self.resize, self.cache == "memory")

    def usable(self, part: Subset, order: np.ndarray, limit: int | None) -> np.ndarray:
        """Return the first ``limit`` rows of an order whose images can be read, (N,)."""
        if not self.verify:
            return super().usable(part, order, limit)
        reader, wanted = part.samples.read, len(order) if limit is None else limit
        assert isinstance(reader, ImageReader)
        good: list[int] = []
        bad_rows: list[BadRow] = []
        silent = min(wanted, len(order)) < _MANY or self._ranks[1] > 0
        for row in tqdm(order.tolist(), "checking images", leave=False, disable=silent):
            bad = reader.find_bad_row(row)
            if bad is None:
                good.append(row)
            else:
                bad_rows.append(bad)
            if len(good) == wanted:
                break
        self.reject(reader.place, bad_rows)
        rows = np.array(good, dtype=np.int64)
        self.some(rows, reader.place.split)
        return rows


class ImageError(ValueError):
    """An image that cannot be read.

    Args:
        reason: What is wrong, in words that other images may share.
        detail: Its path, if it has one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class ImageReader:
    """Reads images out of a column.

    Args:
        table: The split.
        column: Column of the images.
        place: How messages name the split.
        folder: What paths in the column are relative to.
        side: Side of the squares that larger images are brought to; none leaves them as they are.
        keep: Whether decoded images are kept.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        column: str,
        place: SplitRef,
        folder: Path,
        side: int | None = None,
        keep: bool = False,
    ) -> None:
        table = table.select_columns([column])
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        self.table, self.column, self.place, self.folder, self.side = table, column, place, folder, side
        self.kept: dict[int, Tensor] | None = {} if keep else None

    def __call__(self, row: int) -> Tensor:
        """Return the image of a row, (C, H, W).

        Raises:
            DataError: If it cannot be read.
        """
        try:
            return self._read(row)
        except ImageError as error:
            raise self.place.error([BadRow(row, self.column, error.reason, error.detail)]) from error

    def contents(self, rows: np.ndarray) -> Iterator[Any]:
        """Yield what is stored of the images of some rows: the bytes of files, or nested lists."""
        return (stored(value, self.folder) for value in self.table[rows][self.column])

    def find_bad_row(self, row: int) -> BadRow | None:
        """Return why the image of a row cannot be read; None where it can."""
        try:
            self._read(row)
        except ImageError as error:
            return BadRow(row, self.column, error.reason, error.detail)
        return None

    def _read(self, row: int) -> Tensor:
        if self.kept is not None and row in self.kept:
            return self.kept[row]
        image = decode(self.table[row][self.column], self.folder, self.side)
        if self.kept is not None:
            self.kept[row] = image
        return image


def stored(value: Any, folder: Path) -> Any:
    """Return the bytes of an image file, undecoded; nested lists as they are, and None where there is no image.

    Args:
        value: Bytes, path, dict of the two, or nested lists.
        folder: What a path is relative to.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if not isinstance(value, str) or not value:
        return value
    path = folder / value
    return path.read_bytes() if path.is_file() else None


def decode(value: Any, folder: Path, side: int | None = None) -> Tensor:
    """Return the pixels of an image, (C, H, W): uint8 in 0..255, or float32.

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
    if isinstance(value, str) and not (folder / value).is_file():
        raise ImageError("image is a folder" if (folder / value).is_dir() else "image not found", str(folder / value))
    try:
        if isinstance(value, list):
            pixels = _from_lists(value)
        else:
            file = BytesIO(value) if isinstance(value, bytes) else folder / value
            with Image.open(file, formats=image_formats()) as image:
                pixels = _from_file(image if side is None else _reduced(image, side))
    except Exception as error:  # the decoders raise errors of every kind on corrupt data
        raise ImageError("undecodable image", str(folder / value) if isinstance(value, str) else "") from error
    if pixels.is_floating_point() and not pixels.isfinite().all():
        raise ImageError("NaN or infinite pixel")
    return pixels


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
