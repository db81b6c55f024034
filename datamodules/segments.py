"""Segments of a non-stationary stream, and the plan of its samples: which one of which stream comes when."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .base import at_least
from .corruptions import CORRUPTIONS, SEVERITIES
from .loader import permutation
from .samples import DataError, Subset
from .shown import shown_list
from .task import Task


@dataclass(frozen=True)
class Segment:
    """One segment of a non-stationary stream.

    Args:
        samples: Number of samples of the segment.
        stream: Index of the stream that the samples come from, from 0; it continues where it was left.
        permute_labels: Seed of a permutation of the classes that leaves none in its place; null permutes none.
        rotate: Counter-clockwise rotation of the images, in degrees; two numbers, from and to, for a gradual one.
        gradual: Number of samples at the beginning of the segment over which samples of the segment before are still
            drawn, with a probability that falls linearly from one to zero.
        classes: Classes whose samples alone are taken, in the stream's order: names, or indices from 0 where no class
            has such a name, before any permutation. If there are too few samples, they are repeated in another order.
            Null for all classes.
        corruption: Corruption of ImageNet-C, such as ``gaussian_noise`` or ``contrast``, applied after any rotation to
            the image in the size that the data set has; null for none.
        severity: Severity of the corruption, from 1 to 5.
    """

    samples: int
    stream: int = 0
    permute_labels: int | None = None
    rotate: float | tuple[float, float] = 0.0
    gradual: int = 0
    # not in the text of a segment, which is a part of fingerprints that earlier releases have written
    classes: list[int | str] | None = field(default=None, repr=False)
    corruption: str | None = field(default=None, repr=False)
    severity: int = field(default=3, repr=False)

    @property
    def angles(self) -> tuple[float, float]:
        """Degrees of rotation at the beginning and the end of the segment."""
        if isinstance(self.rotate, (tuple, list)):  # a list in code, for no file has tuples
            first, last = self.rotate
            return first, last
        return self.rotate, self.rotate

    def identity(self) -> list[Any]:
        """Return what happens to its samples, for the fingerprint; in earlier releases' form if possible."""
        more = (self.classes, self.corruption, self.severity if self.corruption else None)
        return [self, more] if any(value is not None for value in more) else [self]

    def check(self, place: str, streams: int) -> None:
        """Check what can be known before the data is read.

        Args:
            place: How messages name the segment.
            streams: Number of streams.

        Raises:
            DataError: If an option is out of range.
        """
        at_least(f"{place}.samples", self.samples, 1)
        at_least(f"{place}.gradual", self.gradual, 0)
        at_least(f"{place}.permute_labels", self.permute_labels, 0)
        if not all(map(math.isfinite, self.angles)):
            raise DataError(f"--data.{place}.rotate: {self.rotate} must be finite, in degrees")
        if not 0 <= self.stream < streams:
            raise DataError(
                f"--data.{place}.stream: there is no stream {self.stream}; there are {streams}, counted from 0"
            )
        if self.classes is not None and not self.classes:
            raise DataError(f"--data.{place}.classes: it is empty; name some, or leave it out for all")
        if self.corruption is not None and self.corruption not in CORRUPTIONS:
            raise DataError(
                f"--data.{place}.corruption: {self.corruption!r} is not known; choose from {', '.join(CORRUPTIONS)}"
            )
        if not 1 <= self.severity <= SEVERITIES:
            raise DataError(f"--data.{place}.severity: {self.severity} must be from 1 to {SEVERITIES}")
        if self.corruption is None and self.severity != Segment.severity:
            raise DataError(
                f"--data.{place}.severity: there is no corruption to have it; set corruption too, or leave it out"
            )

    def class_indices(self, names: Sequence[str], place: str) -> list[int] | None:
        """Return the indices of its classes; None for all.

        Args:
            names: Names of the stream's classes.
            place: How messages name the segment.

        Raises:
            DataError: If there is no such class.
        """
        if self.classes is None:
            return None
        known: dict[str, int] = {name: index for index, name in enumerate(names)}
        found = []
        for wanted in self.classes:
            index = known.get(str(wanted), wanted)
            if not isinstance(index, int) or not 0 <= index < len(names):
                raise DataError(
                    f"--data.{place}.classes: there is no class {wanted!r}; choose from {shown_list(names)}, or their "
                    f"indices from 0 to {len(names) - 1}"
                )
            found.append(index)
        return found


def check_one_class(task: Task, option: str, reason: str) -> None:
    """Check that a sample of a stream has one class.

    Args:
        task: The stream's task.
        option: The option that needs it.
        reason: Why.

    Raises:
        DataError: If it has several or a value.
    """
    if task.kind != "classification":
        found = "several classes per sample" if task.classes else "values"
        raise DataError(f"--data.{option}: {task.name} has {found}; {reason}")


def rows_of_classes(segment: Segment, place: str, part: Subset, task: Task, needed: bool = True) -> np.ndarray | None:
    """Return which rows of a stream a segment may take, those of its classes, (rows,) bool; None for all.

    Args:
        segment: The segment.
        place: How messages name it.
        part: Samples of its stream.
        task: The stream's task.
        needed: Whether it is an error that there are none.

    Raises:
        DataError: If the stream has no such classes, or no sample of them.
    """
    if segment.classes is None:
        return None
    check_one_class(task, f"{place}.classes", "only a classification with one class per sample can be split by class")
    found = np.isin(part.targets().numpy(), segment.class_indices(task.classes, place))
    if needed and not found.any():
        raise DataError(
            f"--data.{place}.classes: the stream has no sample of {shown_list(segment.classes)}; name other classes, "
            "or take more samples of the stream (max_samples)"
        )
    return found


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


def lay_out(segments: Sequence[Segment], repeat: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the regime and the angle at every position of the segments in their order, ``repeat`` times, each (N,)."""
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
    return np.concatenate(regimes), np.concatenate(angles)


def draw_rows(regime: np.ndarray, order: np.ndarray, allowed: dict[int, np.ndarray | None], seed: int) -> np.ndarray:
    """Return the rows of a stream at the positions of its regimes, (N,).

    Every regime takes the next row of the order that it allows and that has not been used. One that has used all of
    its rows starts again, with the order permuted; of rows that others have used as well, the least used come first.

    Args:
        regime: The regime at each of the stream's positions.
        order: The stream's rows.
        allowed: By regime, which of these it may take, (rows,) bool; None for all.
        seed: Seed of the permutations.
    """
    used = np.zeros(len(order), dtype=np.int64)

    def take(may: np.ndarray | None) -> Iterator[int]:
        for epoch in count():
            places = permutation(len(order), seed, epoch) if epoch else np.arange(len(order))
            for place in (places if may is None else places[may[places]]).tolist():
                if used[place] <= epoch:
                    used[place] = epoch + 1
                    yield order[place]

    takers = {index: take(may) for index, may in allowed.items()}
    return np.array([next(takers[index]) for index in regime.tolist()], dtype=np.int64)


def plan_stream(
    segments: Sequence[Segment],
    repeat: int,
    orders: Sequence[np.ndarray],
    seed: int,
    allowed: Sequence[np.ndarray | None] | None = None,
) -> StreamPlan:
    """Return the plan of the segments in their order, all of them ``repeat`` times.

    Args:
        segments: In their order.
        repeat: How many times.
        orders: Rows of every stream, in its order; an exhausted one starts again, permuted.
        seed: Seed of what is drawn.
        allowed: Which rows of its stream's order each segment may take, (rows,) bool; None for all.
    """
    regime, angle = lay_out(segments, repeat, seed)
    stream = np.array([segment.stream for segment in segments])[regime]
    row = np.empty(len(regime), dtype=np.int64)
    for which, order in enumerate(orders):
        here = stream == which
        masks = {k: allowed[k] if allowed else None for k, segment in enumerate(segments) if segment.stream == which}
        row[here] = draw_rows(regime[here], order, masks, seed)
    return StreamPlan(regime, row, angle)


def derangement(classes: int, seed: int) -> Tensor:
    """Return a permutation of the classes that leaves none in its place, drawn uniformly, (classes,)."""
    generator = np.random.default_rng([seed, 0, 4])
    while True:
        drawn = generator.permutation(classes)
        if (drawn != np.arange(classes)).all():
            return torch.from_numpy(drawn)
