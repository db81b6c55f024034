"""Handwritten digits that come with scikit-learn: no download, a run of seconds."""

from __future__ import annotations

from functools import partial
from operator import getitem
from typing import ClassVar

import numpy as np
import torch

from .base import StreamDataModule
from .loader import permutation
from .samples import Samples, Subset
from .task import Task

_TRAINING = 1500


class DigitsDataModule(StreamDataModule):
    """A stream of the 1,797 handwritten digits of scikit-learn.

    They are uint8 images (1, 8, 8) of ten classes (``sklearn.datasets.load_digits``). 1,500 are for training and 297
    for validation, the same ones whatever the seed.
    """

    modality: ClassVar = "image"

    @property
    def label(self) -> str:
        """Short name of the task: as given, else ``digits``."""
        return self.task_name or "digits"

    def prepare(self) -> tuple[Subset, Subset]:
        """Read the digits and part them."""
        from sklearn.datasets import load_digits  # which brings pandas: most of what importing filtune would take

        digits = load_digits()
        images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        samples = Samples("image", partial(getitem, images), torch.from_numpy(digits.target).long())
        rows = permutation(len(samples), 0)
        return Subset(samples, np.sort(rows[:_TRAINING])), Subset(samples, np.sort(rows[_TRAINING:]))

    def describe(self, train: Subset) -> Task:
        """Return the task: ten classes of small grey images."""
        return Task(
            name=self.label,
            kind="classification",
            outputs=10,
            classes=tuple("0123456789"),
            modality="image",
            image_shape=(1, 8, 8),
            metrics=("accuracy",),
        )
