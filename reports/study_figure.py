"""The figures of a study: the score over the samples, one panel per stream, and one panel with labelled lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from filtune.experiments.tables import Table

from .figures import FigurePlan, Line, line_panel, plan_curves
from .formatting import metric_title
from .plots import Look, looks
from .study import StreamResult, compared_rows, learning_rate


def study_plans(streams: Sequence[StreamResult], table: Table, name: str) -> list[FigurePlan]:
    """Return the figure of all streams with a legend, and that of ``comparison.figure`` with labels at the lines.

    Args:
        streams: The comparisons on the streams.
        table: The study.
        name: The name of the first figure; the other has ``_panel`` behind it, and is an SVG as well.
    """
    title, (method, *others) = "scores of the method and the baselines over the samples", compared_rows(table)
    styles = looks(
        (row.title, row.optimizer, "tuned" if learning_rate(row) == "tuned" else "paper") for row in [method, *others]
    )
    lines = [
        Line(
            row.title,
            replace(styles[row.title], width=2.6 if row is method else 1.2),
            {stream.name: [*stream.rows[row.name].finished.values()] for stream in streams},
            has_band=row is method,
        )
        for row in [*others, method]  # the method on top
    ]
    columns = [(stream.name, stream.title, stream.metric) for stream in streams]
    plan = plan_curves(name, title, columns, ["metric"], lines)
    asked = (table.raw["comparison"].get("figure") or {}).get("columns", [])
    run = [stream for stream in streams if stream.name in asked and any(line.records[stream.name] for line in lines)]
    panels, size = [[partial(_draw_labelled, stream, lines) for stream in run]], (4.8 * len(run), 3.3)
    ends = (".svg", ".png")
    panel = FigurePlan(f"{name}_panel", title, panels, styles, size=size, dpi=200, ends=ends, is_opaque=True)
    return [replace(plan, ends=(".png",)), panel]


def _draw_labelled(stream: StreamResult, lines: Sequence[Line], axis: Any, _: dict[str, Any]) -> None:
    """Draw a stream with the title of each line at its end, legible at half its size."""
    series = [each for line in lines for each in line.series(stream.name, stream.metric.replace("_", "/", 1))]
    line_panel(series, "", "samples", metric_title(stream.metric))(axis, {})
    axis.set_title(f"{stream.title} (dashed: rate tuned on it)", fontsize=9, loc="left")
    ends = {each.label: (float(each.band.x[-1]), float(each.band.mean[-1])) for each in series}
    _label_ends(axis, ends, {line.label: line.look for line in lines}, lines[-1].label)


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
