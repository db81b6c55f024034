"""Handwritten digits that come with scikit-learn: no download, a run of seconds."""

from __future__ import annotations

from functools import partial
from operator import getitem
from typing import ClassVar

import numpy as np
import torch
from sklearn.datasets import load_digits

from datamodules.base import StreamDataModule
from datamodules.loader import permutation
from datamodules.samples import Part, Samples
from datamodules.task import Task

_TRAINING = 1500


class DigitsDataModule(StreamDataModule):
    """The 1,797 digits of ``sklearn.datasets.load_digits``: uint8 images (1, 8, 8) of ten classes.

    1,500 are for training and 297 for validation, the same ones whatever the seed.

    Args:
        batch_size: Samples per training batch.
        val_batch_size: Samples per validation batch.
        max_samples: Length of the stream: the first so many of its order, the same in every epoch; all by default.
        max_val_samples: How many validation samples to use, chosen by the seed; all by default.
        seed: Seed of the order of the stream; by default the run's, as set by ``--seed_everything``, else 0.
        shuffle: Whether to shuffle the stream, each epoch anew.
        num_workers: Processes that fetch training samples ahead; 0 for none.
        task_name: Short name of the task, for log folders.

    Raises:
        DataError: If an argument is out of range.
    """

    modality: ClassVar = "image"

    def __init__(
        self,
        batch_size: int = 1,
        val_batch_size: int = 64,
        max_samples: int | None = None,
        max_val_samples: int | None = None,
        seed: int | None = None,
        shuffle: bool = True,
        num_workers: int = 0,
        task_name: str = "digits",
    ) -> None:
        super().__init__(
            batch_size, val_batch_size, max_samples, max_val_samples, seed, shuffle, num_workers, task_name
        )

    def prepare(self) -> tuple[Part, Part]:
        """Read the digits and part them."""
        digits = load_digits()
        images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        samples = Samples("image", partial(getitem, images), torch.from_numpy(digits.target).long())
        rows = permutation(len(samples), 0)
        return Part(samples, np.sort(rows[:_TRAINING])), Part(samples, np.sort(rows[_TRAINING:]))

    def describe(self, train: Part) -> Task:
        """Ten classes of small grey images."""
        return Task(
            name=self.label,
            kind="classification",
            outputs=10,
            classes=tuple("0123456789"),
            modality="image",
            image_shape=(1, 8, 8),
            metrics=("accuracy",),
        )
