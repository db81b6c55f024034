"""Curves of several seeds: their mean and deviation on one grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
        deviation: Sample standard deviation at each point; None of one curve.
        unit: Of x: ``samples``, or ``steps`` of what is no run of fit.
    """

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray | None
    unit: str = "steps"


def tag_of(curve: str, metric: str, records: Iterable[Record]) -> str | None:
    """Return the tag a panel shows: the one asked for, the column's metric for ``metric``, or an alternative.

    A scalar with a single point is no curve.
    """
    wanted = metric.replace("_", "/", 1) if curve == "metric" else curve
    had = {tag for record in records for tag, (steps, _) in record["curves"].items() if len(steps) > 1}
    return next((tag for tag in (wanted, *ALTERNATIVES.get(wanted, ())) if tag in had), None)


def mean_band(records: Iterable[Record], tag: str) -> MeanBand | None:
    """Return mean and deviation over the seeds on the union of their steps, where all have values.

    Args:
        records: The runs of a cell; those that diverged are left out unless all did.
        tag: The scalar.
    """
    found = list(records)
    finished = [record for record in found if record["status"] == "finished"] or found
    curves = [curve_of(record, tag) for record in finished if len(record["curves"].get(tag, [[]])[0]) > 0]
    if not curves:
        return None
    x = np.unique(np.concatenate([steps for steps, _ in curves]))
    inside = (x >= max(steps[0] for steps, _ in curves)) & (x <= min(steps[-1] for steps, _ in curves))
    x = x[inside] if inside.any() else curves[0][0]
    values = np.stack([np.interp(x, steps, points) for steps, points in curves])
    deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else None
    return MeanBand(x, values.mean(axis=0), deviation, "samples" if any(map(_samples, finished)) else "steps")


def curve_of(record: Record, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Return samples, or steps where the record does not count samples, and the values of a scalar after them.

    Methods with batches of different sizes are thus drawn over one axis.

    Raises:
        KeyError: If the record has no such curve.
    """
    steps, values = (np.asarray(part, dtype=float) for part in record["curves"][tag])
    return steps * (_samples(record) or 1.0), values


def _samples(record: Record) -> float:
    """Return samples of a step; zero where they are not known."""
    samples, steps = record.get("samples"), record.get("steps")
    return samples / steps if samples and steps else 0.0
