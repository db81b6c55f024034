"""The figures of a study: the score over the samples, one panel per stream, and one panel with labelled lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filtune.experiments.tables import Table
from filtune.lightning_modules.atomic import atomic_write

from .curves import mean_band
from .formatting import metric_title
from .plots import PAPER, Look, draw_legend, draw_mean, looks, new_figure, save_png, to_svg
from .study import StreamResult, compared_rows, learning_rate


def draw_study(streams: Sequence[StreamResult], table: Table, target: Path) -> list[Path]:
    """Draw the streams of a study with a legend, and those of ``comparison.figure`` alone with labels at the lines.

    A stream that is scored once, at its end, has no curve and no panel.

    Args:
        streams: The comparisons on the streams.
        table: The study.
        target: The PNG of all streams; the other figure has ``_panel`` in its name, and is an SVG as well.

    Returns:
        The files.
    """
    streams = [stream for stream in streams if has_curve(stream)]
    if not streams:
        return []
    styles, columns = _styles(table), panel_columns(len(streams))
    rows = -(-len(streams) // columns)
    with new_figure(rows, columns, (4.2 * columns, 3.2 * rows)) as (figure, axes):
        handles: dict[str, Any] = {}
        for axis, stream in zip(axes.flat, streams, strict=False):
            handles |= _draw_stream(axis, stream, table, styles)[0]
            axis.set_title(stream.title)
        for axis in axes.flat[len(streams) :]:
            axis.set_axis_off()
        scores = ["average online score (%)" if stream.online else "validation score (%)" for stream in streams]
        _label_axes(axes, scores, columns)
        draw_legend(figure, dict(reversed(handles.items())), styles)  # they are drawn with the method last
        save_png(figure, target, 100)
    drawn = (table.raw["comparison"].get("figure") or {}).get("columns", [])
    return [target, *_draw_panel([stream for stream in streams if stream.name in drawn], table, target)]


def has_curve(stream: StreamResult) -> bool:
    """Return True if a run of the stream was scored more than once."""
    tag = stream.metric.replace("_", "/", 1)
    runs = (record for row in stream.rows.values() for record in row.finished.values())
    return any(len(record["curves"].get(tag, ((),))[0]) > 1 for record in runs)


def _draw_panel(streams: Sequence[StreamResult], table: Table, target: Path) -> list[Path]:
    """Draw one panel or several side by side, legible at half their size, on a white ground of their own."""
    if not streams:
        return []
    styles, paths = _styles(table), [target.with_name(f"{target.stem}_panel{end}") for end in (".png", ".svg")]
    with new_figure(1, len(streams), (4.8 * len(streams), 3.3), table.name) as (figure, axes):
        for axis, stream in zip(axes.flat, streams, strict=True):
            _, ends = _draw_stream(axis, stream, table, styles)
            axis.set_title(f"{stream.title} (dashed: rate tuned on it)", fontsize=9, loc="left")
            _label_ends(axis, ends, styles, next(iter(styles)))
        _label_axes(axes, [metric_title(stream.metric) for stream in streams], len(streams))
        save_png(figure, paths[0], 200)
        svg = to_svg(figure, facecolor=PAPER)
    with atomic_write(paths[1]) as file:
        file.write(svg)
    return paths


def _label_axes(axes: Any, scores: Sequence[str], columns: int) -> None:
    for axis, label in zip(axes.flat, panel_labels(scores, columns), strict=False):
        axis.set_ylabel(label)
    for axis in axes[-1]:
        axis.set_xlabel("samples")


def _styles(table: Table) -> dict[str, Look]:
    """Return the look of each row by its title; tuned rows are dashed."""
    rows = compared_rows(table)
    return looks([(row.title, row.optimizer, "tuned" if learning_rate(row) == "tuned" else "paper") for row in rows])


def _draw_stream(
    axis: Any, stream: StreamResult, table: Table, styles: dict[str, Look]
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Draw the mean of each row over the seeds, the method with a band; return lines and their ends by title."""
    lines, ends = {}, {}
    for row in reversed(compared_rows(table)):  # the method on top
        runs = stream.rows[row.name]
        if not runs.finished:
            continue
        band, own = mean_band(runs.finished.values(), stream.metric.replace("_", "/", 1)), runs is stream.method
        assert band is not None  # a record without the curve is left out of the comparison
        deviation, width = (band.deviation, 2.6) if own else (None, 1.2)
        lines[row.title] = draw_mean(axis, band.x, band.mean, styles[row.title], deviation, width)
        ends[row.title] = (float(band.x[-1]), float(band.mean[-1]))
    return lines, ends


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
            textcoords=axis.get_yaxis_transform(), va="center", fontsize=8.5, color=styles[title].ink,
            weight="bold" if title == bold else "normal", annotation_clip=False,
            arrowprops={**line, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def spread(heights: Sequence[float], step: float) -> list[float]:
    """Return places near heights, in the same order and at least a step apart, with the least squared displacement.

    It is the isotonic regression of the sorted heights minus multiples of the step.
    """
    from scipy.optimize import isotonic_regression

    order, ranks = np.argsort(heights, kind="stable"), step * np.arange(len(heights))
    places = np.empty(len(heights))
    places[order] = isotonic_regression(np.asarray(heights)[order] - ranks).x + ranks
    return places.tolist()


def panel_columns(panels: int) -> int:
    """Return two or three columns, whichever leaves fewer places empty."""
    return min(range(min(panels, 2), min(panels, 3) + 1), key=lambda columns: (-panels % columns, -columns))


def panel_labels(labels: Sequence[str], columns: int) -> list[str]:
    """Return the label of each panel's axis, empty where it is that of the panel on its left."""
    return ["" if i % columns and label == labels[i - 1] else label for i, label in enumerate(labels)]
