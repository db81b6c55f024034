"""Folders of images with a table beside them, ``metadata.csv`` or ``metadata.jsonl``, as on the hub."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from datasets import Dataset

from .image_folder import SPLITS, Tree
from .samples import DataError

NAMES = ("metadata.csv", "metadata.jsonl")
COLUMN = "file_name"
"""The column with the path of the image, relative to the table."""


def metadata_files(tree: Tree) -> dict[str, PurePosixPath]:
    """Return the table of every split: one in the folder itself, or one in each sub-folder that is a split."""
    found = [path for path in tree.others if path.name.lower() in NAMES]
    for path in found:
        if len(path.parts) == 1:
            return {"train": path}
    splits = {SPLITS.get(path.parts[0].lower()): path for path in found if len(path.parts) == 2}
    return {split: path for split, path in splits.items() if split is not None}


def read_metadata(table: Dataset, path: Path) -> Dataset:
    """Return a table of images with the paths in a column ``image``.

    Args:
        table: The table.
        path: Where it was read from.

    Raises:
        DataError: If it has no column of paths.
    """
    if COLUMN not in table.column_names:
        raise DataError(
            f"--data.source: {path} has no column {COLUMN!r} with the paths of the images; there are "
            f"{', '.join(table.column_names)}"
        )
    images = [name and os.path.abspath(path.parent / name) for name in table[COLUMN]]
    return table.remove_columns([COLUMN, *({"image"} & set(table.column_names))]).add_column("image", images)
