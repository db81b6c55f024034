"""What a data module says about its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import DataError

Kind = Literal["classification", "regression"]

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
}
"""The validation metrics that a kind of task may have."""


@dataclass(frozen=True)
class Task:
    """What is predicted, and from what.

    Args:
        name: Short name, for log folders.
        kind: Classification or regression.
        outputs: Number of model outputs m: the classes, or 1.
        classes: Names of the classes, in the order of their labels; empty for regression.
        modality: Text or image.
        image_shape: (C, H, W) of the first image; none for text.
        metrics: The task's own validation metrics.
    """

    name: str
    kind: Kind
    outputs: int
    classes: tuple[str, ...]
    modality: Literal["text", "image"]
    image_shape: tuple[int, int, int] | None
    metrics: tuple[str, ...]


def choose_metrics(kind: Kind, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics asked for, else accuracy, or Pearson's and Spearman's correlation.

    Raises:
        DataError: If a metric does not exist for this kind of task.
    """
    if not asked:
        return ("accuracy",) if kind == "classification" else METRICS[kind]
    unknown = [metric for metric in asked if metric not in METRICS[kind]]
    if unknown:
        raise DataError(f"--data.metrics: a {kind} task has no {unknown[0]!r}; choose of {', '.join(METRICS[kind])}")
    return tuple(asked)
