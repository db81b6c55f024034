"""Streams of the rows of a table, with texts or images and a column of labels."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from .base import StreamDataModule
from .columns import repeated_headers, with_columns
from .delimited import QUOTINGS
from .label_text import LabelText
from .labels import LabelCodec, class_name, declared_classes, likelihood_for, refuse_similar
from .loader import permutation
from .report import DataReport, describe_labels
from .samples import BadRow, DataError, Samples, SplitRef, Subset
from .source import TextOptions, read_source, source_stem
from .task import Task

_HELD_OUT = (0, 1)
_USUAL_VALIDATION = "validation"
_REPEATED = "the row repeats the header"
_SHOWN = 5


class TableDataModule(StreamDataModule):
    """A stream of the rows of a table, with a column of labels.

    Args:
        source: A hub id such as ``nyu-mll/glue``; a local folder laid out like the hub's; a folder of images with a
            sub-folder for each class, whatever the files are called; or a file, .csv, .tsv, .json, .jsonl, .ndjson or
            .parquet. The cells of a .csv or .tsv are strings: labels are classes by the string that stands there, or
            numbers where all of them are.
        name: Configuration of a hub data set, such as ``sst2`` of GLUE; null where there is only one.
        split: Split to learn from.
        val_split: Split to validate on. Null holds out ``val_fraction`` of ``split``, and so does the default where the
            data has no split ``validation``.
        label_column: Name of the column of labels.
        batch_size: Number of samples per training batch of each process.
        val_batch_size: Number of samples per validation batch.
        max_samples: Number of samples of the stream: the first ones of its order, the same in every epoch; null for
            all.
        max_val_samples: Number of validation samples, chosen by the seed; null for all.
        seed: Seed of the stream's order; null takes the run's seed (``--seed_everything``), else 0.
        shuffle: Shuffle the stream, differently in each epoch; ``false`` keeps the order of the source.
        val_fraction: Fraction of ``split``, in [0, 1), that is held out for validation where there is no validation
            split, chosen by the seed; 0 for no validation.
        task: Kind of task: ``classification``, ``regression``, ``count``, ``multilabel`` (several labels per row), or
            the kind of a likelihood of your own; ``auto`` takes numbers with decimals for values, and all other labels
            for classes.
        classes: Names of the classes in the order of the model's outputs; null takes the classes that the data
            declares, else all labels found, sorted. Labels that differ only in case or blanks are refused unless they
            are named here.
        target_scaling: Units in which values are learned. ``running``: the mean of the targets so far is subtracted,
            the rest divided by their standard deviation, and the noise variance estimated; counts are learned relative
            to their mean so far. ``none``: as they are, with unit variance. ``auto``: ``none`` where mean and standard
            deviation are of order one, as in STS-B, else ``running``.
        metrics: Names of the validation metrics. Classes: accuracy (the default), f1, matthews, and top5 with more than
            five classes. Values: pearson and spearman (the default), rmse, mae. Counts: deviance and mae (the default),
            rmse, pearson. Several labels: f1 and exact_match (the default), macro_f1, accuracy.
        on_bad_row: Reaction to a row without a label, a text or a readable image: ``error`` stops before training;
            ``skip`` leaves it out and reports the number of such rows.
        num_workers: Number of processes that fetch training samples ahead; 0 for none.
        task_name: Short name of the task, for folders and tables; null takes that of the configuration or the source.
        encoding: Encoding of text files without a byte order mark, such as ``latin-1``; null takes UTF-8.
        quoting: Quoting of a .csv or .tsv. ``doubled``: quotes around a field, and doubled quotes within it.
            ``backslash``: a backslash before a quote or a delimiter. ``none``: quotes are ordinary characters.
            ``auto``: the quoting that gives every row as many cells as the header; a file that can be read in two ways
            is refused.

    Raises:
        DataError: If an argument is out of range.
    """

    def __init__(
        self,
        source: str,
        name: str | None = None,
        split: str = "train",
        val_split: str | None = _USUAL_VALIDATION,
        label_column: str = "label",
        batch_size: int = 1,
        val_batch_size: int = 64,
        max_samples: int | None = None,
        max_val_samples: int | None = None,
        seed: int | None = None,
        shuffle: bool = True,
        val_fraction: float = 0.1,
        task: str = "auto",
        classes: list[Any] | None = None,
        target_scaling: Literal["auto", "none", "running"] = "auto",
        metrics: list[str] | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        num_workers: int = 0,
        task_name: str | None = None,
        encoding: str | None = None,
        quoting: Literal["auto", "doubled", "backslash", "none"] = "auto",
    ) -> None:
        super().__init__(
            batch_size, val_batch_size, max_samples, max_val_samples, seed, shuffle, num_workers, task_name
        )
        if not 0 <= val_fraction < 1:
            raise DataError(f"--data.val_fraction: {val_fraction} is not a fraction; it must be in 0 <= fraction < 1")
        if target_scaling not in ("auto", "none", "running"):
            raise DataError(f"--data.target_scaling: must be one of auto, none, running; got {target_scaling!r}")
        if quoting not in QUOTINGS:
            raise DataError(f"--data.quoting: must be one of {', '.join(QUOTINGS)}; got {quoting!r}")
        if task != "auto":
            likelihood_for(task)
        self.source, self.name, self.split, self.val_split = source, name, split, val_split
        self.label_column, self.val_fraction, self.on_bad_row = label_column, val_fraction, on_bad_row
        self.kind, self.metrics = task, metrics
        self.classes = None if classes is None else [class_name(name) for name in classes]
        self.target_scaling = target_scaling
        self.text_options = TextOptions(encoding, quoting)

    @property
    def label(self) -> str:
        """Return the short name of the task: as given, else that of the configuration or the source."""
        return self.task_name or re.sub(r"[^\w.-]+", "_", self.name or source_stem(self.source))

    @property
    @abstractmethod
    def inputs(self) -> list[str]:
        """Return the columns of the input."""

    @abstractmethod
    def reader(self, table: Dataset, place: SplitRef) -> Callable[[int], Any]:
        """Return a function that gives the input of a row."""

    def find_bad_rows(self, table: Dataset) -> list[BadRow]:
        """Return the rows whose input is bad, as far as the whole column shows it."""
        column = self.inputs[0]
        if not self.read.delimiter or not all(map(self.read.is_untyped, table.column_names)):
            return []
        return [BadRow(row, column, _REPEATED) for row in repeated_headers(table).tolist()]

    def prepare(self) -> tuple[Subset, Subset | None]:
        """Return the training and the validation samples: read the splits and check their columns."""
        self.read = read_source(self.source, self.name, self.text_options, self.modality)
        self._check_choices()
        train_table = self._pick(self.split, "split")
        self._infer(train_table)
        train = self._part(train_table, self.split)
        if self.val_split is None or (self.val_split == _USUAL_VALIDATION and self.val_split not in self.read.splits):
            return self._hold_out(train)
        self._validation_source = f"split {self.val_split!r}"
        return train, self._part(self._pick(self.val_split, "val_split"), self.val_split)

    def validation_source(self) -> str:
        """Return where the validation samples are from, or why there are none."""
        return self._validation_source

    def _check_choices(self) -> None:
        """Check that the labels are no input, and that no row is both learned from and validated on.

        Raises:
            DataError: If so.
        """
        option = "text_columns" if self.modality == "text" else "image_column"
        if self.label_column in self.inputs:
            raise DataError(
                f"--data.{option}: {self.label_column!r} is the column of the labels; an input that holds the answer "
                "teaches nothing: choose another column, or another --data.label_column"
            )
        if len(set(self.inputs)) < len(self.inputs):
            raise DataError(f"--data.{option}: {self.inputs[0]!r} is named twice; choose two different columns, or one")
        if self.val_split == self.split:
            raise DataError(
                f"--data.val_split: {self.split!r} is the split that is learned from; choose another, or leave it out: "
                f"--data.val_fraction holds rows of it out"
            )

    def notes(self) -> list[str]:
        """Return what was read in a way of its own, what was not read, and what the labels look like."""
        inferred = self.classes is None and self.kind == "auto" and not self._has_declared
        advice = describe_labels(self.task, self.part, inferred, whole=self.max_samples is None)
        padded = 0 if self._label_text is None else self._label_text.padded
        blanks = [f"blanks around {padded} labels left out"] if padded else []
        return [*self.read.remarks, *blanks, *(f"not read: {note}" for note in self.read.notes), *advice]

    def report(self) -> DataReport:
        """Return what was read, after ``setup()``."""
        return replace(super().report(), source=self._title())

    def setup(self, stage: str | None = None) -> None:
        """Read and check the data, once; report how many bad rows were left out.

        Raises:
            DataError: If the data cannot be read, a row is bad, or there is nothing to learn from.
        """
        fresh = self._train is None
        super().setup(stage)
        if fresh and self.skipped_rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped_rows.items())
            rank_zero_warn(f"{self._title()}: bad rows left out: {sum(self.skipped_rows.values())} ({reasons})")

    def describe(self, train: Subset) -> Task:
        """Return the task, with the shape of the first image of the split."""
        image = train.samples.read(int(train.rows.min())) if self.modality == "image" else None
        return Task(
            name=self.label,
            kind=self.codec.kind,
            outputs=self.codec.outputs,
            classes=self.codec.coding.classes,
            modality=self.modality,
            image_shape=None if image is None else tuple(image.shape),
            metrics=self.codec.choose_metrics(self.metrics),
            label_options=self.codec.coding.options,
            target_scaling=self.codec.scales_targets(train.samples.labels, self.target_scaling),
        )

    def place(self, split: str) -> SplitRef:
        """Return the split, as messages name it."""
        return SplitRef(self._title(), split, lines=self.read.lines)

    def reject(self, place: SplitRef, bad_rows: Sequence[BadRow]) -> set[int]:
        """Return the indices of the bad rows, and count them by the first reason of each.

        Raises:
            DataError: If bad rows are an error, naming the first.
        """
        if bad_rows and self.on_bad_row == "error":
            raise place.error(bad_rows)
        reasons = {bad.row: bad.reason for bad in reversed(bad_rows)}
        self.skipped_rows = dict(Counter(self.skipped_rows) + Counter(reasons.values()))
        return set(reasons)

    def _part(self, table: Dataset, split: str) -> Subset:
        place, bad_inputs = self.place(split), self.find_bad_rows(table)
        table = table if self._label_text is None else self._label_text.apply(table, self.label_column)
        labels, bad_rows = self.codec.encode(table)
        bad = self.reject(place, sorted(bad_rows + bad_inputs, key=lambda bad: bad.reason != _REPEATED))
        rows = np.setdiff1d(np.arange(len(table)), np.fromiter(bad, dtype=np.int64))
        self.some(rows, split)
        return Subset(Samples(self.modality, self.reader(table, place), labels), rows)

    def some(self, rows: np.ndarray, split: str) -> None:
        """Check that rows are left.

        Raises:
            DataError: If not.
        """
        if not len(rows):
            raise DataError(f"{self._title()}, split {split!r}: no good row is left; correct the data")

    def _hold_out(self, train: Subset) -> tuple[Subset, Subset | None]:
        total = len(train.rows)
        count = round(self.val_fraction * total)
        missing = f"no split {self.val_split!r}" if self.val_split else "val_split is none"
        self._validation_source = f"{missing}, val_fraction {self.val_fraction:g} of {total} rows"
        if count == total:
            raise DataError(
                f"--data.val_fraction: {self.val_fraction:g} of the {total} good rows of {self._title()} leaves none "
                "to learn from; take a smaller fraction"
            )
        if not count:
            return train, None
        shuffled = train.rows[permutation(len(train.rows), self.seed, *_HELD_OUT)]
        validation, kept = np.sort(shuffled[:count]), np.sort(shuffled[count:])
        return Subset(train.samples, kept), Subset(train.samples, validation)

    def _infer(self, table: Dataset) -> None:
        """Find out what the labels of the training split are."""
        kind, classes = self.kind, self.classes
        headers = {bad.row for bad in TableDataModule.find_bad_rows(self, table)}
        if headers:
            kept = np.setdiff1d(np.arange(len(table)), list(headers))
            table = Dataset(table.data.table.take(pa.array(kept)))
        self._label_text: LabelText | None = None
        if self.read.is_untyped(self.label_column):
            self._label_text = LabelText.infer(
                table, self.label_column, kind, classes, self.read.delimiter, self._title()
            )
            table = self._label_text.apply(table, self.label_column)
            kind = self._label_text.task
            classes = None if self._label_text.classes is None else list(self._label_text.classes)
        self.codec = LabelCodec.infer(table, self.label_column, kind, classes)
        self._has_declared = bool(declared_classes(table, self.label_column))
        if self.classes is None and (self.read.is_image_folder or not self._has_declared):
            refuse_similar(self.codec.coding.classes, self.label_column, self._title())

    def _pick(self, split: str, argument: str) -> Dataset:
        splits = self.read.splits
        if split not in splits:
            raise DataError(
                f"--data.{argument}: {self._title()} has no split {split!r}; choose from {', '.join(splits)}"
            )
        text = "text_columns" if self.modality == "text" else "image_column"
        wanted = {**dict.fromkeys(self.inputs, text), self.label_column: "label_column"}
        files = self.read.files if split == self.split else ()
        more = " ..." if len(files) > _SHOWN else ""
        title = f"{self._title()} ({', '.join(files[:_SHOWN])}{more})" if files else self._title()
        title = title if split == self.split else f"{title}, split {split!r}"
        table = with_columns(splits[split], wanted, title)
        if not len(table):
            raise DataError(f"--data.source: {self._title()}, split {split!r} has no rows")
        return table

    def _title(self) -> str:
        return f"{self.source} ({self.name})" if self.name else self.source
