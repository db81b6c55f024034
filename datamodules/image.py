"""Images with labels: the data module, and the reader of a column of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
from torch import Tensor
from tqdm import tqdm

from .base import at_least
from .image_decoding import ImageError, decode_first, stored, stored_file
from .image_files import ImageFiles
from .samples import BadRow, SplitRef, Subset
from .table import TableDataModule

_MANY = 3000


class ImageDataModule(TableDataModule):
    """A stream of images, each in its own size.

    They are uint8 in 0..255, or float32. The backbone resizes and normalises them.

    Args:
        source: A hub id such as ``ylecun/mnist``; a local folder in the hub's layout; a folder of images with one
            sub-folder for each class; or a table with a column of images, or of their paths relative to the file.
        image_column: Name of the column of images.
        verify: Decode all images of the stream before training, so that unreadable ones are found first. With ``false``
            an unreadable image stops the run when its turn comes, whatever ``on_bad_row`` says.
        resize: Side in pixels of the squares to which larger images are reduced when they are decoded: the shorter side
            is resized, the middle of the longer one kept. Null keeps their size; the backbone resizes in any case.
        cache: ``memory`` keeps decoded images for later epochs, and those that ``verify`` has decoded for the first
            one; a photograph of 256 pixels a side takes 0.2 MB. Images that worker processes decode are lost at the end
            of an epoch: with ``num_workers``, let ``verify`` decode them. ``none`` keeps none.
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
        source = Path(os.path.expanduser(self.source))
        folder = source.parent if os.path.isfile(source) else source
        return ImageReader(table, self.image_column, place, folder, self.resize, self.cache == "memory")

    def notes(self) -> list[str]:
        """Return what is to be said of tables, and how many images have more frames than the one that is taken."""
        parts = (part for part in (self._train, self._val) if part is not None)
        readers = {id(part.samples.read): part.samples.read for part in parts}.values()
        count = sum(len(reader.animated) for reader in readers if isinstance(reader, ImageReader))
        return super().notes() + ([f"{count} images have several frames, of which the first is taken"] if count else [])

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


class ImageReader:
    """A reader of images out of a column.

    Args:
        table: The split.
        column: Column of the images.
        place: How messages name the split.
        folder: What paths in the column are relative to.
        side: Side of the squares that larger images are brought to; none leaves them as they are.
        keep: Whether decoded images are kept.

    Attributes:
        animated: Rows decoded so far whose images have several frames, of which the first is taken.
        beyond: Rows decoded so far whose images have pixels beyond 0..1 as floats, with the least and the greatest.
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
        self.animated: set[int] = set()
        self.beyond: dict[int, tuple[float, float]] = {}
        self.files = ImageFiles(len(table))

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
        """Yield what is stored of the images of some rows: the bytes of files, or nested lists.

        A file that has changed when its image is read later is an error.
        """
        for row, value in zip(rows.tolist(), self.table[rows][self.column], strict=True):
            content, file = stored(value, self.folder), stored_file(value, self.folder)
            if file is not None:
                self.files.note(row, file, content)
            yield content

    def name(self, row: int) -> str:
        """Return the image of a row, as messages name it."""
        file = stored_file(self.table[row][self.column], self.folder)
        return str(file) if file else f"the image in row {row} (from 0) of {self.place.source}, {self.place.split!r},"

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
        value = self.table[row][self.column]
        if (file := stored_file(value, self.folder)) is not None:
            self.files.check(row, file)
        image, frames = decode_first(value, self.folder, self.side)
        if frames > 1:
            self.animated.add(row)
        if image.is_floating_point() and (image.min() < 0 or image.max() > 1):
            self.beyond[row] = float(image.min()), float(image.max())
        if self.kept is not None:
            self.kept[row] = image
        return image
