"""Non-stationary streams: task switch, permuted labels, rotated or corrupted images, new classes, recurring regimes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from .base import VALIDATION, StreamDataModule, at_least
from .corruptions import corrupted, refuse_range
from .loader import permutation
from .samples import DataError, Subset
from .segments import (
    Segment,
    StreamPlan,
    check_one_class,
    derangement,
    draw_rows,
    lay_out,
    plan_stream,
    rows_of_classes,
)
from .shown import shown_list
from .task import Task

LONGEST = 100_000_000
"""Most samples of a stream, of which each has a place in memory."""

_TRAINING, _VALIDATION = 5, 6
"""Keys of the random numbers of corruptions."""


class ChangingSamples(Dataset):
    """The samples of a plan, by position; their ``row`` is the position, their ``regime`` the segment they are of.

    Args:
        parts: The samples of every stream.
        segments: The segments.
        plan: What comes when.
        classes: Number of classes, those of the stream that has most; 0 for values.
        seed: Seed and key of the noise, which is a function of these and the position alone.
    """

    def __init__(
        self,
        parts: Sequence[Subset],
        segments: Sequence[Segment],
        plan: StreamPlan,
        classes: int,
        seed: tuple[int, int] = (0, _TRAINING),
    ) -> None:
        self.parts, self.segments, self.plan, self.classes, self.seed = parts, segments, plan, classes, seed
        self.relabel = [
            None if segment.permute_labels is None else derangement(classes, segment.permute_labels)
            for segment in segments
        ]

    def check_pixels(self) -> None:
        """Check the range of the images that are corrupted, as far as they have been decoded.

        Raises:
            DataError: Naming the first image with pixels beyond 0..1.
        """
        for number, segment in enumerate(self.segments):
            reader = self.parts[segment.stream].samples.read
            beyond = getattr(reader, "beyond", {}) if segment.corruption is not None else {}
            rows = self.plan.row[self.plan.regime == number]
            for row in rows[np.isin(rows, list(beyond))].tolist()[:1]:
                raise refuse_range(str(segment.corruption), *beyond[row], reader.name(row))

    def __len__(self) -> int:
        """Return the number of positions of the stream."""
        return len(self.plan.row)

    def read(self, position: int) -> Any:
        """Return the input at a position."""
        sample = self[position]
        return sample["image"] if "image" in sample else sample["text"]

    def contents(self, rows: np.ndarray) -> Iterator[tuple[Any, Tensor]]:
        """Yield the raw input, before rotation and corruption, and the target of some positions."""
        for position in rows.tolist():
            regime = int(self.plan.regime[position])
            part = self.parts[self.segments[regime].stream]
            ((content, label),) = part.samples.contents(self.plan.row[position : position + 1])
            yield content, self._target(regime, label)

    def _target(self, regime: int, label: Tensor) -> Tensor:
        """Return the target in a regime; one entry per class where a sample has several, of every stream's classes."""
        relabel = self.relabel[regime]
        label = label if relabel is None else relabel[label]
        return pad(label, (0, self.classes - len(label))) if label.dim() else label

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return the sample at a position."""
        regime = int(self.plan.regime[position])
        segment = self.segments[regime]
        sample = self.parts[segment.stream].samples[int(self.plan.row[position])]
        angle = float(self.plan.angle[position])
        sample["label"] = self._target(regime, sample["label"])
        if angle:
            sample["image"] = rotate(sample["image"], angle, InterpolationMode.BILINEAR)
        if segment.corruption is not None:
            seed, key = self.seed
            rng = np.random.default_rng([seed, position, key])
            sample["image"] = corrupted(sample["image"], segment.corruption, segment.severity, rng)
        return {**sample, "row": position, "regime": regime}


class ChangingDataModule(StreamDataModule):
    """A non-stationary stream, composed of segments.

    The segments draw from one data set or several. Validation is on the last segment's regime, on the validation
    samples of its stream, or on those of all segments.

    Args:
        streams: Data modules that the segments draw from; their batch sizes do not count.
        segments: Segments of the stream, in order.
        repeat: Number of times that the segments come, one after the other.
        batch_size: Number of samples per training batch of each process.
        val_batch_size: Number of samples per validation batch.
        max_samples: Number of samples of the stream; null for those of all segments.
        max_val_samples: Number of validation samples, chosen by the seed; null for all.
        seed: Seed of all random draws; null takes the run's seed (``--seed_everything``), else 0.
        num_workers: Number of processes that fetch training samples ahead; 0 for none.
        task_name: Short name of the task, for folders and tables; null takes ``changing-`` and the names of the
            streams.
        validate: Segments to validate on. ``last``: the last one. ``all``: every segment, with the images, labels and
            classes at its end; ``max_val_samples`` is divided equally among them, and the accuracy on each segment and
            the forgetting are reported as well.

    Raises:
        DataError: If an argument is out of range, or the streams are not of one kind.
    """

    def __init__(
        self,
        streams: list[StreamDataModule],
        segments: list[Segment],
        repeat: int = 1,
        batch_size: int = 1,
        val_batch_size: int = 64,
        max_samples: int | None = None,
        max_val_samples: int | None = None,
        seed: int | None = None,
        num_workers: int = 0,
        task_name: str | None = None,
        validate: Literal["last", "all"] = "last",
    ) -> None:
        super().__init__(batch_size, val_batch_size, max_samples, max_val_samples, seed, False, num_workers, task_name)
        at_least("repeat", repeat, 1)
        if not streams or not segments:
            raise DataError("--data.streams, --data.segments: a stream that changes needs one of each at least")
        for index, segment in enumerate(segments):
            segment.check(f"segments[{index}]", len(streams))
        self.length = repeat * sum(segment.samples for segment in segments)
        if self.length > LONGEST:
            raise DataError(
                f"--data.segments, --data.repeat: a stream of {self.length:,} samples is too long; at most {LONGEST:,}"
            )
        if validate not in ("last", "all"):
            raise DataError(f"--data.validate: must be last or all; got {validate!r}")
        if validate == "all" and max_val_samples is not None and max_val_samples < len(segments):
            raise DataError(
                f"--data.max_val_samples: {max_val_samples} is too small; validate: all needs one at least of each of "
                f"the {len(segments)} segments"
            )
        self.validate = validate
        self.streams, self.segments, self.repeat = streams, segments, repeat

    @property
    def label(self) -> str:
        """Short name of the task: as given, else ``changing-`` and the streams'."""
        return self.task_name or "-".join(["changing", *(stream.label for stream in self.streams)])

    @property
    def changes(self) -> list[int]:
        """Positions at which another segment begins."""
        lengths = [segment.samples for segment in self.segments] * self.repeat
        return np.cumsum(lengths)[:-1].tolist()

    def prepare(self) -> tuple[Any, Any]:
        """Read the streams, and lay the segments out."""
        for index, stream in enumerate(self.streams):
            if any(segment.classes is not None for _, segment in self._segments_of(index)):
                stream.choose = partial(self._choose, index)
            else:
                stream.max_samples = min(self.length, stream.max_samples or self.length)
            stream.seed, stream.trainer = self.seed, self.trainer
            stream.setup()
            self._fits(index)
        parts = [stream.part for stream in self.streams]
        allowed = [
            rows_of_classes(segment, f"segments[{number}]", parts[segment.stream], self.streams[segment.stream].task)
            for number, segment in enumerate(self.segments)
        ]
        plan = plan_stream(self.segments, self.repeat, [part.rows for part in parts], self.seed, allowed)
        samples = ChangingSamples(parts, self.segments, plan, self._classes, (self.seed, _TRAINING))
        samples.check_pixels()
        return Subset(samples, np.arange(len(samples))), self._validation()

    def _segments_of(self, index: int) -> list[tuple[int, Segment]]:
        """Return the segments of a stream, with their numbers."""
        return [(number, segment) for number, segment in enumerate(self.segments) if segment.stream == index]

    def _choose(self, index: int, part: Subset, order: np.ndarray) -> np.ndarray:
        """Return the rows that segments take from a stream, in its order, where some take some of the classes alone.

        Only these are checked, for which images are decoded; bad ones are replaced by the next.
        """
        stream, order = self.streams[index], order[: self.streams[index].max_samples]
        skipped = dict(stream.skipped_rows)
        task = stream.describe(Subset(part.samples, stream.usable(part, order, 1)))
        stream.skipped_rows = skipped  # a bad row before the first good one is counted below
        regime, _ = lay_out(self.segments, self.repeat, self.seed)
        regime = regime[np.isin(regime, [number for number, _ in self._segments_of(index)])]
        good: list[int] = []
        while True:
            rest = Subset(part.samples, order)
            allowed = {k: rows_of_classes(each, f"segments[{k}]", rest, task) for k, each in self._segments_of(index)}
            taken = dict.fromkeys(draw_rows(regime, order, allowed, self.seed).tolist())
            known = set(good)
            new = [row for row in taken if row not in known]
            # with one that is known to be good, for to have none is an error
            found = stream.usable(part, np.array(good[:1] + new, dtype=np.int64), None)
            bad = np.setdiff1d(new, found)
            if not len(bad):
                return order[np.isin(order, list(taken))]
            good += np.setdiff1d(new, bad).tolist()
            order = order[~np.isin(order, bad)]

    def describe(self, train: Subset) -> Task:
        """Return the task of the first stream, with the classes' numbers for names where the streams differ.

        Targets are learned in running units if one of the streams needs them.
        """
        tasks = [stream.task for stream in self.streams]
        classes = tasks[0].classes
        if any(task.classes != classes for task in tasks):
            classes = tuple(map(str, range(self._classes)))
        metrics = tasks[self.segments[-1].stream].metrics
        scaled = any(task.target_scaling for task in tasks)
        outputs = len(classes) or 1
        return replace(
            tasks[0],
            name=self.label,
            outputs=outputs,
            classes=classes,
            metrics=metrics,
            target_scaling=scaled,
            segments=self._schedule(len(train.rows)) if self.validate == "all" else (),
        )

    def _schedule(self, samples: int) -> tuple[tuple[int, int], ...]:
        """Return the segments of a stream of so many samples, in their order, as (number, samples), with 0 beyond."""
        lengths = np.array([segment.samples for segment in self.segments] * self.repeat)
        lengths = np.diff(np.cumsum(lengths).clip(max=samples), prepend=0).tolist()
        numbers = [*range(len(self.segments))] * self.repeat
        return tuple(zip(numbers, lengths, strict=True))

    def notes(self) -> list[str]:
        """Return how many samples have come before, and which segments that are to be validated cannot be."""
        plan, rows = self.part.samples.plan, self.part.rows
        stream = np.array([segment.stream for segment in self.segments])[plan.regime[rows]]
        again = len(rows) - np.unique(np.stack([stream, plan.row[rows]]), axis=1).shape[1]
        notes = [f"{again} samples have come before, for their stream or classes have no more"] if again else []
        held_out = self.validation
        validated = set() if held_out is None else set(held_out.samples.plan.regime[held_out.rows].tolist())
        lacking = [number for number in range(len(self.segments)) if number not in validated]
        if self.validate == "all" and lacking:
            notes.append(f"no validation samples for segments {shown_list(lacking)}, whose forgetting is not measured")
        return notes

    def validation_groups(self) -> np.ndarray:
        """Return the segment of each validation sample, (N,)."""
        assert self.validation is not None
        return self.validation.samples.plan.regime[self.validation.rows]

    def stream_changes(self) -> Iterable[Any]:
        """Return the segments and how often they come, for the fingerprint."""
        validation = [] if self.validate == "last" else [self.validate]
        return [self.repeat, *chain(*(segment.identity() for segment in self.segments)), *validation]

    @property
    def _classes(self) -> int:
        return max(len(stream.task.classes) for stream in self.streams)

    def _validation(self) -> Subset | None:
        """Return the validation samples of the last regime or of all, at the angles that they end with.

        A regime without any is left out.
        """
        count, share = len(self.segments), None
        numbers = range(count) if self.validate == "all" else [count - 1]
        if self.validate == "all" and self.max_val_samples is not None:
            share = self.max_val_samples // count
        parts = [stream.validation or stream.part for stream in self.streams]
        found = []
        for number in numbers:
            segment = self.segments[number]
            stream = self.streams[segment.stream]
            if stream.validation is None:
                continue
            allowed = rows_of_classes(segment, f"segments[{number}]", stream.validation, stream.task, needed=False)
            rows = stream.validation.rows if allowed is None else stream.validation.rows[allowed]
            if share is not None:
                rows = np.sort(rows[permutation(len(rows), self.seed, *VALIDATION)][:share])
            found.append(StreamPlan(np.full(len(rows), number), rows, np.full(len(rows), segment.angles[1])))
        plan = StreamPlan(*map(np.concatenate, zip(*found, strict=True))) if found else None
        if plan is None or not len(plan.row):
            return None
        samples = ChangingSamples(parts, self.segments, plan, self._classes, (self.seed, _VALIDATION))
        samples.check_pixels()
        return Subset(samples, np.arange(len(samples)))

    def _fits(self, index: int) -> None:
        """Check a stream against the first, and against what is done to it.

        Raises:
            DataError: If it is of another kind, or cannot be altered so.
        """
        first, task = self.streams[0].task, self.streams[index].task
        for name in ("kind", "modality", "image_shape"):
            if getattr(task, name) != getattr(first, name):
                raise DataError(
                    f"--data.streams[{index}]: its {name} is {getattr(task, name)}, that of the first stream "
                    f"{getattr(first, name)}; a model takes one of them"
                )
        if self.validate == "all":
            reason = "the forgetting is that of a classification with one class per sample: leave the option out"
            check_one_class(task, "validate: all", reason)
        for number, segment in self._segments_of(index):
            if segment.permute_labels is not None:
                reason = "only a classification with one class per sample can be permuted"
                check_one_class(task, f"segments[{number}].permute_labels", reason)
            for name, value in (("rotate", any(segment.angles)), ("corruption", segment.corruption)):
                if value and task.modality != "image":
                    raise DataError(f"--data.segments[{number}].{name}: {task.name} has {task.modality}s, not images")
            if segment.corruption is not None:
                part = self.streams[index].part
                image = part.samples[int(part.rows[0])]["image"]
                corrupted(image, segment.corruption, segment.severity, np.random.default_rng(0))
