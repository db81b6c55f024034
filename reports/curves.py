"""Curves of several seeds: their mean and deviation on one grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from filtune.experiments.records import Record

ALTERNATIVES = {"online/l1": ("online/loss",), "online/accuracy": ("online/pearson",)}
"""Tags drawn where a run has no such curve."""


@dataclass(frozen=True)
class MeanBand:
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
    """Return the tag a panel shows: the one asked for, the column's metric for ``metric``, or an alternative."""
    wanted = metric.replace("_", "/", 1) if curve == "metric" else curve
    had = {tag for record in records for tag, (steps, _) in record["curves"].items() if steps}
    return next((tag for tag in (wanted, *ALTERNATIVES.get(wanted, ())) if tag in had), None)


def mean_band(records: Iterable[Record], tag: str) -> MeanBand | None:
    """Return mean and deviation over the seeds on the union of their steps, where all have values.

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
    return MeanBand(x, values.mean(axis=0), deviation, len(curves))


def _curve(record: Record, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Return samples, or steps of a validation curve, and values."""
    steps, values = (np.asarray(part, dtype=float) for part in record["curves"][tag])
    order = np.argsort(steps, kind="stable")
    return steps[order] * _samples_per_step(record, tag), values[order]


def _samples_per_step(record: Record, tag: str) -> float:
    samples: Any = record.get("samples")
    return (
        samples / record["steps"]
        if tag.startswith(("online/", "measured/")) and samples and record.get("steps")
        else 1.0
    )
