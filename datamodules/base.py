"""Base class of the data modules: it chooses the samples of the stream and their order, and builds the loaders."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from .fingerprint import stream_fingerprint
from .loader import StreamLoader, permutation
from .report import DataReport
from .samples import DataError, Subset, collate
from .task import Task

VALIDATION = (0, 2)
"""Key of the permutation that chooses the validation samples."""

LIMITED = (0, 7)
"""Key of the permutation of validation samples of which the trainer takes the first."""


class StreamDataModule(pl.LightningDataModule, ABC):
    """A stream of training samples and, if there are any, validation samples.

    A batch is a dict of ``text`` (a list of texts, or of pairs of texts) or ``image`` (B, C, H, W), of ``label``
    (B,), int64 for classes and float32 for values, and of ``row`` (B,), the rows of the source split.

    Args:
        batch_size: Number of samples per training batch of each process.
        val_batch_size: Number of samples per validation batch.
        max_samples: Number of samples of the stream: the first ones of its order, the same in every epoch; null for
            all.
        max_val_samples: Number of validation samples, chosen by the seed; null for all.
        seed: Seed of the stream's order; null takes the run's seed (``--seed_everything``), else 0.
        shuffle: Shuffle the stream, differently in each epoch; ``false`` keeps the order of the source.
        num_workers: Number of processes that fetch training samples ahead; 0 for none.
        task_name: Short name of the task, for folders and tables; null takes that of the source.

    Attributes:
        task: What is predicted, after ``setup()``.
        skipped_rows: How many bad rows were left out, by reason.
        resume_changed: Whether to go on from a checkpoint of another stream, at its position.
        choose: Returns the rows of the stream, of the samples and all rows in its order; by default the first
            ``max_samples`` that can be read. Set before ``setup()`` by what draws from this stream in another way.

    Raises:
        DataError: If an argument is out of range.
    """

    modality: ClassVar[Literal["text", "image"]]
    task: Task

    def __init__(
        self,
        batch_size: int = 1,
        val_batch_size: int = 64,
        max_samples: int | None = None,
        max_val_samples: int | None = None,
        seed: int | None = None,
        shuffle: bool = True,
        num_workers: int = 0,
        task_name: str | None = None,
    ) -> None:
        super().__init__()
        at_least("batch_size", batch_size, 1)
        at_least("val_batch_size", val_batch_size, 1)
        at_least("max_samples", max_samples, 1)
        at_least("max_val_samples", max_val_samples, 1)
        at_least("seed", seed, 0)
        at_least("num_workers", num_workers, 0)
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.max_samples, self.max_val_samples = max_samples, max_val_samples
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.shuffle, self.num_workers, self.task_name = shuffle, num_workers, task_name
        self.skipped_rows: dict[str, int] = {}
        self.resume_changed = False
        self.choose: Callable[[Subset, np.ndarray], np.ndarray] | None = None
        self._train: Subset | None = None
        self._val: Subset | None = None
        self._loader: StreamLoader | None = None
        self._restored: dict[str, int] | None = None
        self._fingerprint: dict[str, str | int] | None = None

    @property
    def label(self) -> str:
        """Short name of the task, for log folders; known before the data is read."""
        return self.task_name or "stream"

    @abstractmethod
    def prepare(self) -> tuple[Subset, Subset | None]:
        """Read the data: the training samples, and the validation samples if there are any."""

    @abstractmethod
    def describe(self, train: Subset) -> Task:
        """Return the task."""

    def usable(self, part: Subset, order: np.ndarray, limit: int | None) -> np.ndarray:
        """Return the first ``limit`` rows of an order that can be read, (N,)."""
        return order[:limit]

    def setup(self, stage: str | None = None) -> None:
        """Read and check the data, once.

        Raises:
            DataError: If the data cannot be read, or there is nothing to learn from.
        """
        if self._train is not None:
            return
        train, val = self.prepare()
        stream = train.rows[permutation(len(train.rows), self.seed, 0)] if self.shuffle else train.rows
        choose = self.choose or (lambda part, order: self.usable(part, order, self.max_samples))
        train = Subset(train.samples, choose(train, stream))
        if val is not None:
            chosen = val.rows
            if self.max_val_samples is not None:
                chosen = chosen[permutation(len(chosen), self.seed, *VALIDATION)]
            val = Subset(val.samples, np.sort(self.usable(val, chosen, self.max_val_samples)))
        self.task = self.describe(train)
        self._train, self._val = train, val

    def train_dataloader(self) -> StreamLoader:
        """Return the stream, from its beginning or from where the checkpoint left it.

        Raises:
            DataError: If the checkpoint was of another stream.
        """
        assert self._train is not None, "call setup() first"
        self._loader = StreamLoader(
            self._train.samples,
            order=self._train.rows,
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=self.shuffle,
            num_workers=self.num_workers,
            collate_fn=collate,
            ranks=self._ranks[0],
            rank=self._ranks[1],
            resume_changed=self.resume_changed,
        )
        if self._restored is not None:
            self._loader.load_state_dict(self._restored)
            self._restored = None
        return self._loader

    def val_dataloader(self) -> DataLoader | list:
        """Return this process's validation samples in the order of the source; an empty list if there are none.

        Raises:
            DataError: If there are fewer than processes, or none and nothing else is to be done.
        """
        if self._val is None:
            if self.trainer is not None and self.trainer.state.fn == "validate":
                raise DataError(
                    f"--data: there are no validation samples ({self.validation_source()}); name a split that has some "
                    "by --data.val_split, or hold some out by --data.val_fraction"
                )
            return []
        ranks, rank = self._ranks
        if len(self._val.rows) < ranks:
            raise DataError(
                f"--trainer.devices: {len(self._val.rows)} validation samples cannot be shared out over {ranks} "
                "processes; take fewer"
            )
        return DataLoader(
            self._val.samples,
            batch_size=self.val_batch_size,
            sampler=self._validation_order()[rank::ranks].tolist(),
            collate_fn=collate,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def validation_groups(self) -> np.ndarray:
        """Return the group of each validation sample, (N,), of which a limited validation has its share each."""
        assert self._val is not None
        return np.zeros(len(self._val.rows), dtype=np.int64)

    def _validation_order(self) -> np.ndarray:
        """Return the validation samples in the order of the source, or spread over it where the first alone are taken.

        The trainer's ``limit_val_batches`` takes the first batches, and a source may be sorted by class.
        """
        assert self._val is not None
        rows, limit = self._val.rows, 1.0 if self.trainer is None else self.trainer.limit_val_batches
        is_whole = isinstance(limit, float) and limit == 1.0
        return rows if is_whole else rows[spread_order(self.validation_groups(), self.seed)]

    def sample_at(self, position: int) -> dict[str, Any] | None:
        """Return the sample that this run's stream hands out at a position, counted over all epochs from 0.

        It is None before the stream is asked for, and where the run went on from another one.
        """
        loader = self._loader
        if loader is None or self.resume_changed:
            return None
        epoch, place = divmod(position, len(loader.order))
        return loader.dataset[int(loader.epoch_order(epoch)[place])]

    @property
    def part(self) -> Subset:
        """The samples of the stream, in its order, after ``setup()``."""
        assert self._train is not None, "call setup() first"
        return self._train

    @property
    def validation(self) -> Subset | None:
        """The validation samples, if there are any, after ``setup()``."""
        return self._val

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of the split that the stream is of, good and bad, and validation samples."""
        assert self._train is not None, "call setup() first"
        return {"train_rows": len(self._train.samples), "val_rows": 0 if self._val is None else len(self._val.rows)}

    def fingerprint(self) -> dict[str, str | int]:
        """Return hashes of the content of the stream, after ``setup()``: see :func:`stream_fingerprint`.

        Image files are read but not decoded, once.
        """
        if self._fingerprint is None:
            changes = self.stream_changes()
            self._fingerprint = stream_fingerprint(self.part, self.validation, self.task.classes, changes)
        return dict(self._fingerprint)

    def report(self) -> DataReport:
        """Return what was read, after ``setup()``."""
        held_out = 0 if self.validation is None else len(self.validation.rows)
        return DataReport(
            source=self.label,
            rows=len(self.part.samples),
            used=len(self.part.rows),
            skipped=dict(self.skipped_rows),
            kind=self.task.kind,
            classes=self.task.classes,
            range=None if self.task.classes else self._range(),
            validation_rows=held_out,
            validation=self.validation_source(),
            notes=self.notes(),
        )

    def validation_source(self) -> str:
        """Return where the validation samples are from, or why there are none."""
        return "there are none" if self.validation is None else "the data's own"

    def notes(self) -> list[str]:
        """Return what else is to be said of the data."""
        return []

    def _range(self) -> tuple[float, float]:
        """Return the least and the greatest target of the split."""
        labels = self.part.targets() if not hasattr(self.part.samples, "labels") else self.part.samples.labels
        labels = labels[labels.isfinite()]
        return float(labels.min()), float(labels.max())

    def stream_changes(self) -> Iterable[Any]:
        """Return what happens to the samples beyond their content, for the fingerprint."""
        return ()

    @property
    def _ranks(self) -> tuple[int, int]:
        """Number of processes that share the data, and the rank of this one."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the stream.

        The trainer keeps the state of the loader as well, but restores it neither after a finished epoch nor
        where the loader was asked for early, as a schedule that counts steps does.
        """
        return {"stream": self._loader.state_dict()} if self._loader is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position, at which the next stream begins."""
        self._restored = state_dict.get("stream")


def spread_order(groups: np.ndarray, seed: int) -> np.ndarray:
    """Return an order drawn at random, (N,), in whose beginning every group is, and has its share.

    Args:
        groups: The group of each sample, (N,), from 0.
        seed: Seed of the order.
    """
    order = permutation(len(groups), seed, *LIMITED)
    drawn, place = groups[order], np.empty(len(groups))
    for group in np.unique(groups):
        size = int((drawn == group).sum())
        place[drawn == group] = np.arange(size) / size
    return order[np.argsort(place, kind="stable")]


def at_least(name: str, value: float | None, least: float) -> None:
    """Check an argument.

    Raises:
        DataError: If the value is too small.
    """
    if value is not None and value < least:
        raise DataError(f"--data.{name}: {value} is too small; it must be at least {least}")
