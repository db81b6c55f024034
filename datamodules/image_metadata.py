"""Folders of images with a table beside them, ``metadata.csv`` or ``metadata.jsonl``, as on the hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from datasets import Dataset

from .image_folder import SPLITS, Tree
from .samples import DataError
from .shown import shown, shown_list

NAMES = ("metadata.csv", "metadata.jsonl")
COLUMN = "file_name"
"""The column with the path of the image, relative to the table."""


def metadata_files(tree: Tree) -> dict[str, PurePosixPath]:
    """Return the table of every split: one in the folder itself, or one in each sub-folder that is a split.

    Raises:
        DataError: If there are two for a split.
    """
    found = [path for path in tree.others if path.name.lower() in NAMES]
    tables: dict[str, PurePosixPath] = {}
    top = [path for path in found if len(path.parts) == 1]
    for path in top or [path for path in found if len(path.parts) == 2]:
        split = "train" if top else SPLITS.get(path.parts[0].lower())
        if split is not None and tables.setdefault(split, path) != path:
            raise DataError(
                f"--data.source: {tree.root / tables[split]} and {path} both describe the images of the split "
                f"{split!r}; keep one"
            )
    return tables


def read_metadata(table: Dataset, path: Path, root: Path, lines: Sequence[int] | None = None) -> Dataset:
    """Return a table of images with the paths in a column ``image``.

    Args:
        table: The table.
        path: Where it was read from.
        root: The folder, in which all images must be.
        lines: Number of the line of every row, where they are known.

    Raises:
        DataError: If it has no column of paths, or one leads out of the folder.
    """
    if COLUMN not in table.column_names:
        raise DataError(
            f"--data.source: {path} has no column {COLUMN!r} with the paths of the images; there are "
            f"{shown_list(table.column_names)}"
        )
    images: list[str | None] = []
    for row, name in enumerate(table[COLUMN]):
        place = os.path.abspath(path.parent / str(name)) if name else None
        if place is not None and not Path(place).is_relative_to(os.path.abspath(root)):
            where = f"line {lines[row]}" if lines else f"row {row} (from 0)"
            raise DataError(
                f"--data.source: {path}, {where}: {COLUMN} {shown(repr(name))} leads out of the folder {root}; write "
                "it relative to the table, or name a table of another name with --data.source and --data.image_column"
            )
        images.append(place)
    return table.remove_columns([COLUMN, *({"image"} & set(table.column_names))]).add_column("image", images)


def describe_images(tables: Iterable[Dataset], tree: Tree) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return remarks on images that several rows name, and notes on those that none does."""
    counts = Counter(image for table in tables for image in table["image"] if image)
    repeated = [os.path.relpath(image, tree.root) for image, count in counts.items() if count > 1]
    left = [path for path in tree.images if os.path.abspath(tree.root / path) not in counts]
    return (
        (f"{len(repeated)} images are in several rows ({shown_list(repeated, 2)})",) if repeated else (),
        (f"{len(left)} images that no row names ({shown_list(left, 2)})",) if left else (),
    )
