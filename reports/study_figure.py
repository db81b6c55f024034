"""The figures of a study: the score over the samples, one panel per stream, and one panel with labelled lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from filtune.experiments.tables import Table

from .curves import mean_band
from .figures import FigurePlan
from .formatting import metric_title
from .plots import Look, draw_mean, looks
from .study import StreamResult, compared_rows, learning_rate


def study_plans(streams: Sequence[StreamResult], table: Table, name: str) -> list[FigurePlan]:
    """Return the figure of all streams with a legend, and that of ``comparison.figure`` with labels at the lines.

    A stream that is scored once, at its end, has no curve and no panel.

    Args:
        streams: The comparisons on the streams.
        table: The study.
        name: The name of the first figure; the other has ``_panel`` behind it, and is an SVG as well.
    """
    title, rows = "scores of the method and the baselines over the samples", compared_rows(table)
    styles = looks([(row.title, row.optimizer, "tuned" if learning_rate(row) == "tuned" else "paper") for row in rows])
    streams = [stream for stream in streams if has_curve(stream)]
    columns = panel_columns(len(streams)) if streams else 1
    scores = ["average online score (%)" if stream.online else "validation score (%)" for stream in streams]
    draws = [
        partial(_draw_panel, stream, table, styles, label, i // columns == (len(streams) - 1) // columns)
        for i, (stream, label) in enumerate(zip(streams, panel_labels(scores, columns), strict=True))
    ]
    panels = [draws[i : i + columns] for i in range(0, len(draws), columns)]
    size = (4.2 * columns, 3.2 * len(panels))
    plan = FigurePlan(name, title, panels, styles, size=size, dpi=100, ends=(".png",))
    asked = (table.raw["comparison"].get("figure") or {}).get("columns", [])
    shown = [stream for stream in streams if stream.name in asked]
    labels = panel_labels([metric_title(stream.metric) for stream in shown], len(shown))
    labelled = [[partial(_draw_labelled, *pair, table, styles) for pair in zip(shown, labels, strict=True)]]
    size = (4.8 * len(shown), 3.3)
    return [
        plan,
        FigurePlan(f"{name}_panel", title, labelled, styles, size=size, dpi=200, ends=(".svg", ".png"), is_opaque=True),
    ]


def has_curve(stream: StreamResult) -> bool:
    """Return True if a run of the stream was scored more than once."""
    tag = stream.metric.replace("_", "/", 1)
    runs = (record for row in stream.rows.values() for record in row.finished.values())
    return any(len(record["curves"].get(tag, ((),))[0]) > 1 for record in runs)


def _draw_panel(
    stream: StreamResult,
    table: Table,
    styles: dict[str, Look],
    ylabel: str,
    is_last: bool,
    axis: Any,
    handles: dict[str, Any],
) -> None:
    """Draw a stream, its method first in the legend."""
    lines, _ = _draw_stream(axis, stream, table, styles)
    handles.update(reversed(lines.items()))
    axis.set(title=stream.title, ylabel=ylabel, xlabel="samples" if is_last else "")


def _draw_labelled(
    stream: StreamResult, ylabel: str, table: Table, styles: dict[str, Look], axis: Any, _: dict[str, Any]
) -> None:
    """Draw a stream with the title of each line at its end, legible at half its size."""
    _, ends = _draw_stream(axis, stream, table, styles)
    axis.set_title(f"{stream.title} (dashed: rate tuned on it)", fontsize=9, loc="left")
    _label_ends(axis, ends, styles, next(iter(styles)))
    axis.set(ylabel=ylabel, xlabel="samples")


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
