"""The figures of a study: the score over the samples, one panel per stream, and one panel with labelled lines."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filtune.experiments.tables import Table
from filtune.lightning_modules.atomic import atomic_write

from .formatting import Look, looks, metric_title
from .study import Curve, StreamResult, compared_rows, learning_rate

PALE = 0.12
"""Opacity of the bands."""


def draw_study(streams: Sequence[StreamResult], table: Table, target: Path) -> list[Path]:
    """Draw the streams of a study with a legend, and those of ``comparison.figure`` alone with labels at the lines.

    Args:
        streams: The comparisons on the streams.
        table: The study.
        target: The PNG of all streams; the other figure has ``_panel`` in its name, and is an SVG as well.

    Returns:
        The files.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    styles = _styles(table)
    columns = panel_columns(len(streams))
    rows = -(-len(streams) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), layout="constrained", squeeze=False)
    for axis, stream in zip(axes.flat, streams, strict=False):
        _draw_stream(axis, stream, table, styles)
        axis.set_title(stream.title, fontsize=10)
    for axis in axes.flat[len(streams) :]:
        axis.set_axis_off()
    scores = ["average online score (%)" if stream.online else "validation score (%)" for stream in streams]
    for axis, label in zip(axes.flat, panel_labels(scores, columns), strict=False):
        axis.set_ylabel(label, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("samples", fontsize=9)
    handles = {title: line for axis in axes.flat for line, title in zip(*axis.get_legend_handles_labels(), strict=True)}
    wide = 0.5 + 0.085 * max(map(len, handles), default=0)  # inches of an entry
    entries = list(handles)[::-1]  # the method first
    figure.legend(
        [handles[title] for title in entries],
        entries,
        loc="outside lower center",
        ncols=max(1, int(4.2 * columns / wide)),
    )
    _save_png(figure, target, 100)
    plt.close(figure)
    drawn = (table.raw["comparison"].get("figure") or {}).get("columns", [])
    return [target, *_draw_panel([stream for stream in streams if stream.name in drawn], table, target)]


def _draw_panel(streams: Sequence[StreamResult], table: Table, target: Path) -> list[Path]:
    """One panel or several side by side, to be read at half their size, on a white ground of their own."""
    if not streams:
        return []
    from matplotlib import pyplot as plt

    styles, paths = _styles(table), [target.with_name(f"{target.stem}_panel{end}") for end in (".png", ".svg")]
    with plt.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": table.name}):
        size = (4.8 * len(streams), 3.3)
        figure, axes = plt.subplots(1, len(streams), figsize=size, layout="constrained", squeeze=False)
        for axis, stream in zip(axes.flat, streams, strict=True):
            ends = _draw_stream(axis, stream, table, styles)
            axis.set_title(f"{stream.title} (dashed: rate tuned on it)", fontsize=9, loc="left")
            axis.set_xlabel("samples")
            axis.spines[["top", "right"]].set_visible(False)
            _label_ends(axis, ends, styles, next(iter(styles)))
        titles = panel_labels([metric_title(stream.metric) for stream in streams], len(streams))
        for axis, label in zip(axes.flat, titles, strict=True):
            axis.set_ylabel(label)
        _save_png(figure, paths[0], 200)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    with atomic_write(paths[1]) as file:
        file.write(buffer.getvalue())
    return paths


def _styles(table: Table) -> dict[str, Look]:
    """The look of each row by its title; tuned rows are dashed."""
    rows = compared_rows(table)
    return looks([(row.title, row.optimizer, "tuned" if learning_rate(row) == "tuned" else "paper") for row in rows])


def _draw_stream(
    axis: Any, stream: StreamResult, table: Table, styles: dict[str, Look]
) -> dict[str, tuple[float, float]]:
    """The mean of each row over the seeds, the method with a band of one deviation; the ends of the lines by title."""
    ends = {}
    for row in reversed(compared_rows(table)):  # the method on top
        runs = stream.rows[row.name]
        if not runs.records:
            continue
        samples, scores = interpolate_curves([runs.curve(seed, stream.metric) for seed in runs.records])
        mean, own, look = scores.mean(0), runs is stream.method, styles[row.title]
        width, marker = 2.6 if own else 1.2, "o" if len(mean) < 3 else None
        axis.plot(samples, mean, color=look.colour, ls=look.stroke, lw=width, label=row.title, marker=marker)
        if own and len(scores) > 1:
            deviation = scores.std(0, ddof=1)
            axis.fill_between(samples, mean - deviation, mean + deviation, color=look.colour, alpha=PALE, lw=0)
        ends[row.title] = (float(samples[-1]), float(mean[-1]))
    axis.grid(alpha=0.3)
    return ends


def _label_ends(axis: Any, ends: dict[str, tuple[float, float]], styles: dict[str, Look], bold: str) -> None:
    """Write the title of each line at its end, moved up or down where two would collide."""
    places, (low, high) = [0.0], axis.get_ylim()
    for _ in range(3):  # labels may need more room, which makes them larger
        step = (high - low) * 11.5 / (72 * 2.5)  # one line of text on an axis of 2.5 inches
        places = spread([height for _, height in ends.values()], step)
        low, high = min([low, *(place - step / 2 for place in places)]), max([high, *(p + step / 2 for p in places)])
    axis.set_ylim(low, high)
    for (title, end), place in zip(ends.items(), places, strict=True):
        line = {"arrowstyle": "-", "relpos": (0.0, 0.5), "color": styles[title].colour, "lw": 0.6}
        axis.annotate(
            re.sub(r", (tuned|as published|exact)$", "", title), end, (1.05, place),
            textcoords=axis.get_yaxis_transform(), va="center", fontsize=8.5, color=styles[title].colour,
            weight="bold" if title == bold else "normal", annotation_clip=False,
            arrowprops={**line, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def spread(heights: Sequence[float], step: float) -> list[float]:
    """Return places near heights, in the same order and at least a step apart, with the least squared displacement.

    It is the isotonic regression of the sorted heights minus multiples of the step, by pooling adjacent violators.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[list[float]] = []
    for rank, i in enumerate(order):
        blocks.append([heights[i] - rank * step])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    level = [float(np.mean(block)) for block in blocks for _ in block]
    places = {i: level[rank] + rank * step for rank, i in enumerate(order)}
    return [places[i] for i in range(len(heights))]


def _save_png(figure: Any, target: Path, dpi: int) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    with atomic_write(target, "wb") as file:  # 128 colours are enough for lines, and less than half of the size
        Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)


def panel_columns(panels: int) -> int:
    """Return two or three columns, whichever leaves fewer places empty."""
    return min(range(min(panels, 2), min(panels, 3) + 1), key=lambda columns: (-panels % columns, -columns))


def panel_labels(labels: Sequence[str], columns: int) -> list[str]:
    """Return the label of each panel's axis, empty where it is that of the panel on its left."""
    return ["" if i % columns and label == labels[i - 1] else label for i, label in enumerate(labels)]


def interpolate_curves(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of the first curve (points,), and all curves at these (curves, points)."""
    samples = curves[0][0]
    return samples, np.stack([np.interp(samples, *curve) for curve in curves])
