"""Images with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from datasets import Dataset, Image
from torch import Tensor
from tqdm import tqdm

from .base import at_least
from .errors import BadRow, SplitRef
from .pixels import decode
from .samples import Subset
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
        """The split, as messages name it."""
        if self.verify:
            return super().place(split)
        return SplitRef(
            self._title(), split, "correct it, or leave bad rows out with --data.verify true --data.on_bad_row skip"
        )

    def reader(self, table: Dataset, place: SplitRef) -> ImageReader:
        """What gives the image of a row."""
        source = Path(self.source).expanduser()
        folder = source.parent if source.is_file() else source
        return ImageReader(table, self.image_column, place, folder, self.resize, self.cache == "memory")

    def usable(self, part: Subset, order: np.ndarray, limit: int | None) -> np.ndarray:
        """The first ``limit`` rows of an order whose images can be read, (N,)."""
        if not self.verify:
            return super().usable(part, order, limit)
        reader, wanted = part.samples.read, len(order) if limit is None else limit
        assert isinstance(reader, ImageReader)
        good: list[int] = []
        faults: list[BadRow] = []
        silent = min(wanted, len(order)) < _MANY or self._ranks[1] > 0
        for row in tqdm(order.tolist(), "checking images", leave=False, disable=silent):
            fault = reader.fault(row)
            if fault is None:
                good.append(row)
            else:
                faults.append(fault)
            if len(good) == wanted:
                break
        self.reject(reader.place, faults)
        rows = np.array(good, dtype=np.int64)
        self.some(rows, reader.place.split)
        return rows


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
        self, table: Dataset, column: str, place: SplitRef, folder: Path, side: int | None = None, keep: bool = False
    ) -> None:
        table = table.select_columns([column])
        if isinstance(table.features[column], Image):
            table = table.cast_column(column, Image(decode=False))
        self.table, self.column, self.place, self.folder, self.side = table, column, place, folder, side
        self.kept: dict[int, Tensor] | None = {} if keep else None

    def __call__(self, row: int) -> Tensor:
        """The image of a row, (C, H, W).

        Raises:
            DataError: If it cannot be read.
        """
        try:
            return self._read(row)
        except ValueError as error:
            raise self.place.error([BadRow(row, self.column, str(error))]) from error

    def fault(self, row: int) -> BadRow | None:
        """What is wrong with the image of a row, if anything."""
        try:
            self._read(row)
        except ValueError as error:
            return BadRow(row, self.column, str(error))
        return None

    def _read(self, row: int) -> Tensor:
        if self.kept is not None and row in self.kept:
            return self.kept[row]
        image = decode(self.table[row][self.column], self.folder, self.side)
        if self.kept is not None:
            self.kept[row] = image
        return image
