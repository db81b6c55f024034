"""Non-stationary streams: task switch, permuted labels, rotation, gradual shift, recurring regimes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from .base import StreamDataModule, at_least
from .loader import permutation
from .samples import DataError, Subset
from .task import Task


@dataclass(frozen=True)
class Segment:
    """One segment of a non-stationary stream.

    Args:
        samples: Its length.
        stream: Which of the streams it takes samples from, counted from 0; it goes on where the last one left off.
        permute_labels: Seed of a permutation of the classes that leaves none in its place; none leaves all.
        rotate: Degrees of a counter-clockwise rotation of the images; two numbers for a gradual one, from and to.
        gradual: Over its first so many samples the segment before is still drawn from, with a probability that falls
            linearly from one to zero.
    """

    samples: int
    stream: int = 0
    permute_labels: int | None = None
    rotate: float | tuple[float, float] = 0.0
    gradual: int = 0

    @property
    def angles(self) -> tuple[float, float]:
        """Degrees of rotation at the beginning and the end of the segment."""
        return self.rotate if isinstance(self.rotate, tuple) else (self.rotate, self.rotate)


class StreamPlan(NamedTuple):
    """Regime, row and angle at every position of the stream, each (N,).

    Attributes:
        regime: Which segment's data and labels.
        row: The row of that segment's stream.
        angle: Degrees of its image's rotation.
    """

    regime: np.ndarray
    row: np.ndarray
    angle: np.ndarray


def plan_stream(segments: Sequence[Segment], repeat: int, orders: Sequence[np.ndarray], seed: int) -> StreamPlan:
    """Return the plan of the segments in their order, all of them ``repeat`` times.

    Args:
        segments: In their order.
        repeat: How many times.
        orders: Rows of every stream, in its order; an exhausted one starts again, permuted.
        seed: Seed of what is drawn.
    """
    drawn = np.random.default_rng([seed, 0, 3])
    regimes, angles = [], []
    last: int | None = None
    for index, segment in list(enumerate(segments)) * repeat:
        regime = np.full(segment.samples, index)
        if last is not None and segment.gradual:
            fading = np.linspace(1, 0, segment.gradual, endpoint=False)[: segment.samples]
            regime[: len(fading)][drawn.random(len(fading)) < fading] = last
        angle = np.linspace(*segment.angles, segment.samples)
        if last is not None:
            angle = np.where(regime == index, angle, segments[last].angles[1])
        regimes.append(regime)
        angles.append(angle)
        last = index
    regime = np.concatenate(regimes)
    stream = np.array([segment.stream for segment in segments])[regime]
    row = np.empty(len(regime), dtype=np.int64)
    for which, order in enumerate(orders):
        positions = np.flatnonzero(stream == which)
        epochs = range(-(-len(positions) // len(order)))
        rows = [order if epoch == 0 else order[permutation(len(order), seed, epoch)] for epoch in epochs]
        row[positions] = np.concatenate([*rows, order[:0]])[: len(positions)]
    return StreamPlan(regime, row, np.concatenate(angles))


def derangement(classes: int, seed: int) -> Tensor:
    """Return a permutation of the classes that leaves none in its place, drawn uniformly, (classes,)."""
    generator = np.random.default_rng([seed, 0, 4])
    while True:
        drawn = generator.permutation(classes)
        if (drawn != np.arange(classes)).all():
            return torch.from_numpy(drawn)


class ChangingSamples(Dataset):
    """The samples of a plan, by position; their ``row`` is the position, their ``regime`` the segment they are of.

    Args:
        parts: The samples of every stream.
        segments: The segments.
        plan: What comes when.
        classes: Number of classes, those of the stream that has most; 0 for values.
    """

    def __init__(self, parts: Sequence[Subset], segments: Sequence[Segment], plan: StreamPlan, classes: int) -> None:
        self.parts, self.segments, self.plan, self.classes = parts, segments, plan, classes
        self.relabel = [
            None if segment.permute_labels is None else derangement(classes, segment.permute_labels)
            for segment in segments
        ]

    def __len__(self) -> int:
        """Return the number of positions of the stream."""
        return len(self.plan.row)

    def read(self, position: int) -> Any:
        """Return the input at a position."""
        sample = self[position]
        return sample["image"] if "image" in sample else sample["text"]

    def contents(self, rows: np.ndarray) -> Iterator[tuple[Any, Tensor]]:
        """Yield the raw input, before any rotation, and the target of some positions."""
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
        sample = self.parts[self.segments[regime].stream].samples[int(self.plan.row[position])]
        angle = float(self.plan.angle[position])
        sample["label"] = self._target(regime, sample["label"])
        if angle:
            sample["image"] = rotate(sample["image"], angle, InterpolationMode.BILINEAR)
        return {**sample, "row": position, "regime": regime}


class ChangingDataModule(StreamDataModule):
    """A stream composed of segments, each a regime of its own, from one data set or several.

    Validation is on the last segment's regime, on the validation samples of its stream.

    Args:
        streams: The data modules that the segments draw from; their batch sizes do not count.
        segments: The segments, in their order.
        repeat: How many times they come, one after the other.
        batch_size: Samples per training batch of each process.
        val_batch_size: Samples per validation batch.
        max_samples: Length of the stream; by default that of all segments.
        max_val_samples: How many validation samples to use, chosen by the seed; all by default.
        seed: Seed of all that is drawn; by default the run's, as set by ``--seed_everything``, else 0.
        num_workers: Processes that fetch training samples ahead; 0 for none.
        task_name: Short name of the task, for log folders; by default ``changing-`` and those of the streams.

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
    ) -> None:
        super().__init__(batch_size, val_batch_size, max_samples, max_val_samples, seed, False, num_workers, task_name)
        at_least("repeat", repeat, 1)
        if not streams or not segments:
            raise DataError("--data.streams, --data.segments: a stream that changes needs one of each at least")
        for index, segment in enumerate(segments):
            at_least(f"segments[{index}].samples", segment.samples, 1)
            at_least(f"segments[{index}].gradual", segment.gradual, 0)
            at_least(f"segments[{index}].permute_labels", segment.permute_labels, 0)
            if not 0 <= segment.stream < len(streams):
                raise DataError(
                    f"--data.segments[{index}].stream: there is no stream {segment.stream}; there are {len(streams)}, "
                    "counted from 0"
                )
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
            wanted = self.repeat * sum(segment.samples for segment in self.segments)
            stream.max_samples = min(wanted, stream.max_samples or wanted)
            stream.seed, stream.trainer = self.seed, self.trainer
            stream.setup()
            self._fits(index)
        parts = [stream.part for stream in self.streams]
        laid_out = plan_stream(self.segments, self.repeat, [part.rows for part in parts], self.seed)
        samples = ChangingSamples(parts, self.segments, laid_out, self._classes)
        return Subset(samples, np.arange(len(samples))), self._validation()

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
            tasks[0], name=self.label, outputs=outputs, classes=classes, metrics=metrics, target_scaling=scaled
        )

    def stream_changes(self) -> Iterable[Any]:
        """Return the segments and how often they come, for the fingerprint."""
        return [self.repeat, *self.segments]

    @property
    def _classes(self) -> int:
        return max(len(stream.task.classes) for stream in self.streams)

    def _validation(self) -> Subset | None:
        """Return the validation samples of the last regime, at the angle it ends with."""
        last = self.segments[-1]
        part = self.streams[last.stream].validation
        if part is None:
            return None
        count = len(part.rows)
        still = StreamPlan(np.full(count, len(self.segments) - 1), part.rows, np.full(count, last.angles[1]))
        parts = [stream.validation or stream.part for stream in self.streams]
        samples = ChangingSamples(parts, self.segments, still, self._classes)
        return Subset(samples, np.arange(count))

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
        for number, segment in enumerate(self.segments):
            if segment.stream != index:
                continue
            if segment.permute_labels is not None and task.kind != "classification":
                found = "several classes per sample" if task.classes else "values"
                raise DataError(
                    f"--data.segments[{number}].permute_labels: {task.name} has {found}; only a classification with "
                    "one class per sample can be permuted"
                )
            if any(segment.angles) and task.modality != "image":
                raise DataError(f"--data.segments[{number}].rotate: {task.name} has {task.modality}s, not images")
