"""Samples of a split, batches of them, and the errors that name a bad row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .shown import printable


class Samples(Dataset):
    """Rows of a split, as dicts of the raw input, the label and the row.

    Args:
        key: Name of the input in a sample, ``text`` or ``image``.
        read: Gives the input of a row.
        labels: Labels of all rows of the split, (rows,).
    """

    def __init__(self, key: str, read: Callable[[int], Any], labels: Tensor) -> None:
        self.key, self.read, self.labels = key, read, labels

    def __len__(self) -> int:
        """Return the number of rows of the split, good and bad."""
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return the sample of a row."""
        return {self.key: self.read(row), "label": self.labels[row], "row": row}

    def contents(self, rows: np.ndarray) -> Iterator[tuple[Any, Tensor]]:
        """Yield the raw input and the target of some rows, for the fingerprint of the stream.

        A reader with a method ``contents`` gives the inputs without decoding them.
        """
        contents = getattr(self.read, "contents", None)
        inputs = map(self.read, rows.tolist()) if contents is None else contents(rows)
        yield from zip(inputs, self.labels[torch.from_numpy(rows)], strict=True)


@dataclass(frozen=True)
class Subset:
    """Samples of a split, and which of its rows may be used, ascending, (N,)."""

    samples: Samples
    rows: np.ndarray

    def targets(self) -> Tensor:
        """Return the targets of the rows, (N, ...)."""
        labels = getattr(self.samples, "labels", None)
        if labels is not None:
            return labels[torch.from_numpy(self.rows)]
        return torch.stack([label for _, label in self.samples.contents(self.rows)])


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch: texts as a list, images as one tensor (B, C, H, W), or as a list where their sizes differ."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    images = batch.get("image")
    if images is not None and len({(image.shape, image.dtype) for image in images}) == 1:
        batch["image"] = torch.stack(images)
    numbers = {key: torch.tensor(batch[key]) for key in ("row", "regime") if key in batch}
    return {**batch, "label": torch.stack(batch["label"]), **numbers}


class DataError(ValueError):
    """The data, or an argument about it, is wrong; the message is one line that names the culprit and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be learned from.

    Args:
        row: Its index in the split, from 0.
        column: The column with the bad value.
        reason: What is wrong, in words that other rows may share.
        detail: What was found in this row.
    """

    row: int
    column: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class SplitRef:
    """A split of a source, as messages name it.

    Args:
        source: The source, with its configuration.
        split: The split.
        remedy: What to do about a bad row.
        lines: Number of the line that each row begins in, where the split is a text file.
    """

    source: str
    split: str
    remedy: str = "correct it, or leave bad rows out with --data.on_bad_row skip"
    lines: Sequence[int] | None = None

    def error(self, bad_rows: Sequence[BadRow]) -> DataError:
        """Return the error that names the first bad row, counts the others, and names the remedy."""
        first = min(bad_rows, key=lambda bad: bad.row)
        others = len({bad.row for bad in bad_rows}) - 1
        detail = f": {first.detail[:1000]}" if first.detail else ""
        more = f" (and {others} more bad row{'s' if others > 1 else ''})" if others else ""
        line = f", line {self.lines[first.row]} of the file" if self.lines is not None else ""
        return DataError(
            f"{self.source}, split {self.split!r}, row {first.row} (from 0), column {first.column!r}: "
            f"{first.reason}{detail}{more}{line}; {self.remedy}"
        )
