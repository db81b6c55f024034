"""The papers' figures: one column of panels a data set and model, one row a curve, one line a method."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtune.experiments.records import Record

from .curves import mean_band, tag_of
from .formatting import Look, curve_title

INK = "#12345f"
"""Stands for the colour of text and axes until the figure is written."""

WIDEST = 4
"""Most panels in a row; further columns go below."""

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "text.parse_math": False,  # labels are text of whoever made the runs
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "path.simplify_threshold": 0.4,
}


@dataclass(frozen=True)
class Line:
    """A line of a figure.

    Attributes:
        label: In the legend.
        look: Colour and stroke.
        records: The runs of each column of panels, by its name.
    """

    label: str
    look: Look
    records: dict[str, list[Record]]


@dataclass(frozen=True)
class FigurePlan:
    """What a figure shows.

    Attributes:
        name: Of its files.
        title: Caption.
        columns: Name, title and metric of each column of panels.
        curves: One row of panels each.
        lines: The methods.
    """

    name: str
    title: str
    columns: list[tuple[str, str, str]]
    curves: list[str]
    lines: list[Line]


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        name: Of its files.
        title: Caption.
        inline: SVG for a page, which takes its colour of text.
        note: What is not in it.
    """

    name: str
    title: str
    inline: str
    note: str


def draw_figure(plan: FigurePlan, folder: Path) -> Figure | None:
    """Draw a figure as SVG and PNG; none where no run has any of its curves."""
    panels = {(c[0], curve): _panel(plan, c, curve) for c in plan.columns for curve in plan.curves}
    columns = [c for c in plan.columns if any(panels[c[0], curve] for curve in plan.curves)]
    curves = [curve for curve in plan.curves if any(panels[c[0], curve] for c in columns)]
    if not columns:
        return None
    inline = _draw_grid(plan, _arrange(panels, columns, curves), folder)
    drawn = {label for panel in panels.values() if panel for label in panel[1]}
    return Figure(plan.name, plan.title, inline, _note(plan, columns, drawn))


def _arrange(
    panels: dict[tuple[str, str], Any], columns: list[tuple[str, str, str]], curves: list[str]
) -> list[list[Any]]:
    """Rows of panels with their titles: one a curve, further columns below; of a single column side by side."""
    if len(columns) == 1:
        (name, title, _), first = columns[0], curves[0]
        return [[(panels[name, curve], title if curve == first else "") for curve in curves]]
    width = math.ceil(len(columns) / math.ceil(len(columns) / WIDEST))
    blocks = [columns[i : i + width] for i in range(0, len(columns), width)]
    return [
        [(panels[name, curve], title if curve == curves[0] else "") for name, title, _ in block]
        for block in blocks
        for curve in curves
    ]


def _draw_grid(plan: FigurePlan, grid: list[list[Any]], folder: Path) -> str:
    def draw(axes: Any) -> dict[str, Any]:
        handles: dict[str, Any] = {}
        for row, panels in zip(axes, grid, strict=True):
            for axis, (panel, title) in zip(row, panels, strict=False):
                _draw_panel(axis, panel, title, handles)
        return {line.label: handles[line.label] for line in plan.lines if line.label in handles}

    return save_figure(plan.name, (len(grid), len(grid[0])), folder, draw)


def save_figure(name: str, shape: tuple[int, int], folder: Path, draw: Callable[[Any], dict[str, Any]]) -> str:
    """Draw a grid of panels, write it as SVG and PNG, and return the SVG for a page.

    Args:
        name: Of the files.
        shape: Rows and columns of panels.
        folder: Where the files go.
        draw: Draws on the axes, (rows, columns), which are off at first; returns the handles of the legend by label.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows, width = shape
    size = (max(3.0 * width, 4.4) + 0.3, 2.4 * rows + 0.75)
    with plt.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axes = plt.subplots(rows, width, figsize=size, squeeze=False, layout="constrained")
        for axis in axes.flat:
            axis.set_axis_off()
        handles = draw(axes)
        if handles:
            per_row = max(2, min(len(handles), int(size[0] / 1.6)))
            figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=per_row)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # it is laid out by now
        figure.savefig(folder / f"{name}.png", dpi=130, facecolor="white")
        plt.close(figure)
    svg = buffer.getvalue()
    (folder / f"{name}.svg").write_text(svg.replace(INK, "#222222"))
    return _inline(svg, name)


def axis_labels(axis: Any, title: str, x: str, y: str) -> None:
    """Set grid, title and labels of a panel."""
    axis.grid(alpha=0.22, linewidth=0.5, color=INK)
    axis.margins(x=0.02)
    axis.set_title(title)
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)


def _panel(plan: FigurePlan, column: tuple[str, str, str], curve: str) -> tuple[str, dict[str, Any]] | None:
    """The scalar of a panel, and a band a line."""
    name, _, metric = column
    tag = tag_of(curve, metric, [record for line in plan.lines for record in line.records.get(name, [])])
    if tag is None:
        return None
    bands = {line.label: (line, mean_band(line.records.get(name, []), tag)) for line in plan.lines}
    return tag, {label: pair for label, pair in bands.items() if pair[1] is not None}


def _draw_panel(axis: Any, panel: tuple[str, dict[str, Any]] | None, title: str, handles: dict[str, Any]) -> None:
    if panel is None:
        return
    axis.set_axis_on()
    tag, bands = panel
    for label, (line, curve) in bands.items():
        style = {"color": line.look.colour, "linestyle": line.look.stroke, "linewidth": 1.4}
        (handles[label],) = axis.plot(curve.x, curve.mean, marker="o" if len(curve.x) < 3 else None, ms=3, **style)
        if curve.count > 1:
            low, high = curve.mean - curve.deviation, curve.mean + curve.deviation
            axis.fill_between(curve.x, low, high, color=line.look.colour, alpha=0.15, linewidth=0)
    axis_labels(axis, title, "samples" if tag.startswith("online/") else "iterations", curve_title(tag))
    axis.ticklabel_format(axis="x", style="plain", useOffset=False)
    axis.locator_params(axis="x", nbins=5)
    axis.locator_params(axis="y", nbins=6)


def _note(plan: FigurePlan, columns: list[tuple[str, str, str]], drawn: set[str]) -> str:
    lacking = [line.label for line in plan.lines if line.label not in drawn]
    panels = [title for name, title, metric in plan.columns if (name, title, metric) not in columns]
    parts = [f"no curve of {', '.join(lacking)}"] if lacking else []
    return "; ".join(parts + ([f"not run: {'; '.join(panels)}"] if panels else []))


def _inline(svg: str, name: str) -> str:
    """An SVG that can stand in a page with others: in the page's colour, its names its own, coordinates to 1/100."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|xlink:href="#)', rf"\1{name}-", svg)
    svg = re.sub(r"(\d+\.\d{2})\d+(?=[^<>]*>)", r"\1", svg)  # within tags: text is what the axes say
    svg = re.sub(r'<svg ([^>]*?)width="([\d.]+)pt"', r'<svg \1style="width:\2pt" role="img"', svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    return svg.replace(INK, "currentColor")
