"""Curves of several seeds: their mean and deviation on one grid, and the figure of a study."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filtune.experiments.records import Record
from filtune.experiments.tables import Table
from filtune.lightning_modules.atomic import atomic_write

from .formatting import looks
from .study import Curve, StreamResult, baseline_label

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
    """Samples, or steps of a validation curve, and values."""
    steps, values = (np.asarray(part, dtype=float) for part in record["curves"][tag])
    order = np.argsort(steps, kind="stable")
    return steps[order] * _samples_per_step(record, tag), values[order]


def _samples_per_step(record: Record, tag: str) -> float:
    samples: Any = record.get("samples")
    return samples / record["steps"] if tag.startswith("online/") and samples and record.get("steps") else 1.0


def draw_study(streams: Sequence[StreamResult], table: Table, target: Path) -> None:
    """Draw the score over the samples, one panel per stream: mean over the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    optimizers = {row.name: row.optimizer for row in table.rows}
    columns = panel_columns(len(streams))
    rows = -(-len(streams) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), layout="constrained", squeeze=False)
    for axis, stream in zip(axes.flat, streams, strict=False):
        methods = {table.raw["comparison"]["method"]: stream.method}
        methods |= {baseline_label(name, found): found.baseline for name, found in stream.comparisons.items()}
        styles = looks([(title, optimizers[m.name.split("/")[0]], "paper") for title, m in methods.items()])
        for title, method in methods.items():
            samples, scores = interpolate_curves([method.curve(seed, stream.metric) for seed in method.records])
            axis.plot(samples, scores.mean(0), color=styles[title].colour, label=title)
            axis.fill_between(samples, scores.min(0), scores.max(0), color=styles[title].colour, alpha=0.12, lw=0)
        axis.set_title(stream.title, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(streams) :]:
        axis.set_axis_off()
    online = streams[0].online
    for axis in axes[:, 0]:
        axis.set_ylabel("average online score (%)" if online else "validation score (%)", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("samples", fontsize=9)
    handles = {title: line for axis in axes.flat for line, title in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    with atomic_write(target, "wb") as file:  # 64 colours are enough for lines, and a quarter of the size
        Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)


def panel_columns(panels: int) -> int:
    """Return two or three columns, whichever leaves fewer places empty."""
    return min(range(min(panels, 2), min(panels, 3) + 1), key=lambda columns: (-panels % columns, -columns))


def interpolate_curves(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of the first curve (points,), and all curves at these (curves, points)."""
    samples = curves[0][0]
    return samples, np.stack([np.interp(samples, *curve) for curve in curves])
