"""Curves of several seeds on one grid: their mean and a band of one deviation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .reading import Record

ALTERNATIVES = {"online/l1": ("online/loss",), "online/accuracy": ("online/pearson",)}
"""What is drawn where a run has no such curve."""


@dataclass(frozen=True)
class Band:
    """Mean and deviation of several curves.

    Attributes:
        x: The common grid.
        mean: Mean at each point.
        deviation: Sample standard deviation at each point, zero of one curve.
        count: How many curves.
    """

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    count: int


def tag_of(curve: str, metric: str, records: Iterable[Record]) -> str | None:
    """The scalar that a panel shows: the one asked for, the column's metric for ``metric``, or what stands in."""
    wanted = metric.replace("_", "/", 1) if curve == "metric" else curve
    had = {tag for record in records for tag, (steps, _) in record["curves"].items() if steps}
    return next((tag for tag in (wanted, *ALTERNATIVES.get(wanted, ())) if tag in had), None)


def band(records: Iterable[Record], tag: str) -> Band | None:
    """Mean and deviation over seeds, on the grid that all share or on the union of theirs where all have points.

    Args:
        records: The runs of a cell; those that diverged are left out unless all did.
        tag: The scalar.
    """
    found = list(records)
    finished = [record for record in found if record["status"] == "finished"] or found
    curves = [_curve(record, tag) for record in finished if len(record["curves"].get(tag, [[]])[0]) > 0]
    if not curves:
        return None
    x = np.unique(np.concatenate([steps for steps, _ in curves]))
    inside = (x >= max(steps[0] for steps, _ in curves)) & (x <= min(steps[-1] for steps, _ in curves))
    x = x[inside] if inside.any() else curves[0][0]
    values = np.stack([np.interp(x, steps, points) for steps, points in curves])
    deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(x))
    return Band(x, values.mean(axis=0), deviation, len(curves))


def _curve(record: Record, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples, or steps of a validation curve, and values."""
    steps, values = (np.asarray(part, dtype=float) for part in record["curves"][tag])
    order = np.argsort(steps, kind="stable")
    return steps[order] * _samples_per_step(record, tag), values[order]


def _samples_per_step(record: Record, tag: str) -> float:
    samples: Any = record.get("samples")
    return samples / record["steps"] if tag.startswith("online/") and samples and record.get("steps") else 1.0
