"""The task that a data module describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Task:
    """A task: what is predicted, and from what.

    Args:
        name: Short name, for log folders.
        kind: Kind of task: classification, regression, count, multilabel, or that of a user-defined likelihood.
        outputs: Number of model outputs m: the classes, or 1.
        classes: Names of the classes, in the order of their labels; empty where labels are numbers.
        modality: Text, image or table.
        image_shape: (C, H, W) of the first image; none for text.
        metrics: The task's own validation metrics.
        label_options: What else it takes to read and write labels, such as the separator of a list.
        target_scaling: Whether targets are learned in running units of their likelihood.
        segments: Segments of a non-stationary stream as they follow each other in an epoch, each as (number, samples),
            where the validation samples have the number of theirs (``regime``); empty otherwise.
        features: Number of features of a table; 0 otherwise.
    """

    name: str
    kind: str
    outputs: int
    classes: tuple[str, ...]
    modality: Literal["text", "image", "table"]
    image_shape: tuple[int, int, int] | None
    metrics: tuple[str, ...]
    label_options: Mapping[str, str] = field(default_factory=dict)
    target_scaling: bool = False
    segments: tuple[tuple[int, int], ...] = ()
    features: int = 0
