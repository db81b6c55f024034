"""Samples of a split, and batches of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


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
        """Rows of the split, good and bad."""
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The sample of a row."""
        return {self.key: self.read(row), "label": self.labels[row], "row": row}


@dataclass(frozen=True)
class Subset:
    """Samples of a split, and which of its rows may be used, ascending, (N,)."""

    samples: Samples
    rows: np.ndarray


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: texts as a list, images as one tensor (B, C, H, W), or as a list where their sizes differ."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    images = batch.get("image")
    if images is not None and len({(image.shape, image.dtype) for image in images}) == 1:
        batch["image"] = torch.stack(images)
    numbers = {key: torch.tensor(batch[key]) for key in ("row", "regime") if key in batch}
    return {**batch, "label": torch.stack(batch["label"]), **numbers}
