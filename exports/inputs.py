"""Rows to predict: of a file, a folder or the hub, as the data modules read them, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
from filtune.datamodules import DataError, ImageDataModule, TextDataModule
from filtune.datamodules.columns import with_columns
from filtune.datamodules.report import DataReport
from filtune.datamodules.source import PLAIN, TextOptions, read_source, source_stem

from .restore import Restored

OPTIONS = {
    "--data.source": "--input",
    "--data.text_columns": "--text_columns",
    "--data.image_column": "--image_column",
    "--data.on_bad_row": "--on_bad_row",
    "--data.encoding": "--encoding",
    "--data.quoting": "--quoting",
    "--data.verify true ": "",
}
"""Options of the data modules, and their names in ``filtune predict``."""


class Rows:
    """The rows of a source that can be predicted.

    Args:
        run: The run that will predict them; its data module names the columns.
        source: File, folder or hub id.
        split: The split; needed where there are several.
        columns: The column, or columns, of the input; by default those of the run.
        on_bad_row: ``error``, or ``skip`` to leave out rows that cannot be read.
        options: How text files are read.

    Attributes:
        table: All rows and columns of the source.
        file: The text file that the source is; none where it is something else.
        report: What was read, in one line.
        kept: Which rows can be predicted, (N,).

    Raises:
        ValueError: If there are none; in one line, naming the option.
    """

    def __init__(
        self,
        run: Restored,
        source: str,
        split: str | None = None,
        columns: Sequence[str] | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        options: TextOptions = PLAIN,
    ) -> None:
        try:
            self._read(run, source, split, columns, on_bad_row, options)
        except DataError as error:
            message = str(error)
            for known, here in OPTIONS.items():
                message = message.replace(known, here)
            raise ValueError(message) from error

    def _read(
        self, run: Restored, source: str, split: str | None, columns: Any, on_bad_row: Any, options: TextOptions
    ) -> None:
        self.key = run.task.modality
        learned = (run.config.get("data") or {}).get("init_args") or {}
        name = learned.get("name") if source == learned.get("source") else None
        read = read_source(source, name, options, run.task.modality, labelled=False)
        splits, self.file = read.splits, read.file
        if split is None and len(splits) > 1:
            raise ValueError(f"--split: {source} has several; choose from {', '.join(splits)}")
        split = split or next(iter(splits))
        if split not in splits:
            raise ValueError(f"--split: {source} has no split {split!r}; choose from {', '.join(splits)}")
        self.table = splits[split]
        module: TextDataModule | ImageDataModule
        if self.key == "text":
            module = TextDataModule(source, columns or learned.get("text_columns", ["text"]), on_bad_row=on_bad_row)
        else:
            (column,) = columns or [_image_column(source, self.table, learned.get("image_column", "image"))]
            module = ImageDataModule(source, column, on_bad_row=on_bad_row)
        module.read = read
        option = "text_columns" if self.key == "text" else "image_column"
        table = with_columns(self.table, dict.fromkeys(module.inputs, option), source)
        if not len(table):
            raise ValueError(f"--input: {source} has no rows")
        self.inputs, place = module.inputs, module.place(split)
        self._reader: Callable[[int], Any] = module.reader(table, place)
        bad_rows = module.find_bad_rows(table)
        if self.key == "image":
            bad_rows += [bad for bad in map(self._reader.find_bad_row, range(len(table))) if bad]  # type: ignore
        module.reject(place, bad_rows)
        self.kept = np.setdiff1d(np.arange(len(table)), [bad.row for bad in bad_rows]).astype(np.int64)
        if not len(self.kept):
            raise ValueError(f"--input: {source} has no row that can be read; correct it")
        counts, task = (len(table), len(self.kept), module.skipped_rows), run.task
        notes = [f"not read: {note}" for note in read.notes]
        self.report = DataReport(source, *counts, task.kind, task.classes, None, 0, "", notes)

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the inputs of some rows, as a backbone takes them."""
        return {self.key: [self._reader(int(row)) for row in rows]}

    def columns(self) -> pa.Table:
        """Return the source's columns of the rows that are kept; an image is named by its path, or else by its row."""
        table = self.table
        for column, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))
        content = table.data.table.take(pa.array(self.kept))
        if self.key == "text":
            return content
        (column,) = self.inputs
        place, images = content.column_names.index(column), content.column(column)
        if pa.types.is_string(images.type) or pa.types.is_large_string(images.type):
            return content
        paths = [Path(image["path"]) for image in images.to_pylist() if isinstance(image, dict) and image.get("path")]
        if len(paths) == len(content):
            return content.set_column(place, column, pa.array(map(str, paths)))
        return content.set_column(place, "row", pa.array(self.kept))


def _image_column(source: str, table: datasets.Dataset, learned: str) -> str:
    """Return the column of the images: the run's, but of a folder, which has columns of its own, the one it has."""
    is_folder = Path(source).expanduser().is_dir() and learned not in table.column_names
    return "image" if is_folder and "image" in table.column_names else learned


def texts(values: Sequence[str]) -> dict[str, Any]:
    """Return a batch of one text, or of one pair of texts.

    Raises:
        ValueError: If there are more, or one is empty.
    """
    if len(values) > 2 or not all(value.strip() for value in values):
        raise ValueError("--text: one text is needed, or the two of a pair, and not an empty one")
    return {"text": [values[0] if len(values) == 1 else tuple(values)]}


def file_stem(source: str) -> Path:
    """Return the path of the predictions of a source without its ending: beside a file or folder, else here."""
    path = Path(source).expanduser()
    if path.is_file():
        return path.with_name(source_stem(source))
    return path if path.exists() else Path(path.name)
