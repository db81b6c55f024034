"""Report of what was read of the data, in one line and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .samples import Subset
from .shown import printable, shown_list
from .task import Task

_APART = 10


@dataclass(frozen=True)
class DataReport:
    """Rows, labels and validation of a data module.

    Args:
        source: Where the data is from.
        rows: Rows of the split that the stream is of.
        used: Samples of the stream.
        skipped: How many bad rows were left out, by reason.
        kind: Kind of task.
        classes: Names of the classes.
        range: Least and greatest target, where targets are numbers.
        validation_rows: Samples for validation.
        validation: Where these are from, or why there are none; empty where nothing is trained.
        notes: What else is to be said, such as files that were not read.
    """

    source: str
    rows: int
    used: int
    skipped: dict[str, int]
    kind: str
    classes: Sequence[str]
    range: tuple[float, float] | None
    validation_rows: int
    validation: str
    notes: Sequence[str] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for ``summary.json``."""
        labels: dict[str, Any] = {"range": list(self.range)} if self.range else {"classes": list(self.classes)}
        return {
            "source": self.source,
            "rows": self.rows,
            "rows_used": self.used,
            "rows_skipped": dict(self.skipped),
            "kind": self.kind,
            **labels,
            "rows_held_out": self.validation_rows,
            "held_out": self.validation,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return one line."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        skipped = f"{sum(self.skipped.values())} skipped ({reasons})" if self.skipped else "none skipped"
        if self.range:
            labels = f"{self.kind}, values from {self.range[0]:g} to {self.range[1]:g}"
        elif not self.classes:
            labels = self.kind
        else:
            labels = f"{self.kind}, {len(self.classes)} classes ({shown_list(self.classes)})"
        held_out = [f"{self.validation_rows} rows for validation ({self.validation})"] if self.validation else []
        parts = [f"{self.rows} rows, {self.used} used, {skipped}", labels, *held_out, *self.notes]
        return printable(" ".join(f"data {self.source}: {'; '.join(parts)}".split()))


def describe_labels(task: Task, stream: Subset, inferred: bool, whole: bool) -> list[str]:
    """Return what is odd about the labels of a stream, in words.

    Args:
        task: The task.
        stream: The samples of the stream.
        inferred: Whether kind and classes were found out from the labels.
        whole: Whether the stream is all of the training rows.
    """
    values = stream.samples.labels[torch.from_numpy(stream.rows)]
    if values.dim() != 1:
        return []
    if not task.classes:
        kinds = values.unique()
        few = inferred and task.kind == "regression" and len(kinds) <= _APART and bool((kinds == kinds.round()).all())
        return ["all values are whole, and few: for classes set --data.task classification"] if few else []
    said = []
    if inferred and len(task.classes) >= _APART and 2 * len(task.classes) > len(stream.rows):
        said.append("nearly every row has a class of its own: for numbers set --data.task regression")
    seen = set(values.tolist())
    absent = [name for target, name in enumerate(task.classes) if target not in seen]
    if absent and whole:
        have = "class has" if len(absent) == 1 else "classes have"
        said.append(f"{len(absent)} {have} no sample in the stream ({shown_list(absent, 5)})")
    return said
