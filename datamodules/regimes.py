"""The regimes of a stream that changes: which sample comes when, and how it is altered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from .loader import permutation
from .samples import Subset


@dataclass(frozen=True)
class Segment:
    """A stretch of a changing stream.

    Args:
        samples: Its length.
        stream: Which of the streams it takes samples from, counted from 0; it goes on where the last one left off.
        permute_labels: Seed of a permutation of the classes that leaves none in its place; none leaves all.
        rotate: Degrees that images are turned counter-clockwise; two numbers turn them gradually from one to the other.
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
        """Degrees at its beginning and its end."""
        return self.rotate if isinstance(self.rotate, tuple) else (self.rotate, self.rotate)


class Plan(NamedTuple):
    """What comes at every position of the stream, each (N,).

    Attributes:
        regime: Which segment's data and labels.
        row: The row of that segment's stream.
        angle: Degrees its image is turned.
    """

    regime: np.ndarray
    row: np.ndarray
    angle: np.ndarray


def plan(segments: Sequence[Segment], repeat: int, orders: Sequence[np.ndarray], seed: int) -> Plan:
    """Lay the segments out, one after the other, and all of them ``repeat`` times.

    Args:
        segments: In their order.
        repeat: How many times.
        orders: Rows of every stream, in its order; one that is used up begins anew, permuted.
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
    return Plan(regime, row, np.concatenate(angles))


def derangement(classes: int, seed: int) -> Tensor:
    """A permutation of the classes that leaves none in its place, drawn uniformly, (classes,)."""
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
        classes: Number of classes; 0 for values.
    """

    def __init__(self, parts: Sequence[Subset], segments: Sequence[Segment], plan: Plan, classes: int) -> None:
        self.parts, self.segments, self.plan = parts, segments, plan
        self.relabel = [
            None if segment.permute_labels is None else derangement(classes, segment.permute_labels)
            for segment in segments
        ]

    def __len__(self) -> int:
        """Positions of the stream."""
        return len(self.plan.row)

    def read(self, position: int) -> Any:
        """The input at a position."""
        sample = self[position]
        return sample["image"] if "image" in sample else sample["text"]

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The sample at a position."""
        regime = int(self.plan.regime[position])
        sample = self.parts[self.segments[regime].stream].samples[int(self.plan.row[position])]
        relabel, angle = self.relabel[regime], float(self.plan.angle[position])
        if relabel is not None:
            sample["label"] = relabel[sample["label"]]
        if angle:
            sample["image"] = rotate(sample["image"], angle, InterpolationMode.BILINEAR)
        return {**sample, "row": position, "regime": regime}
