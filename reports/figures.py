"""The papers' figures: one column of panels a data set and model, one row a curve, one line a method."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtune.experiments.records import Record

from .curves import mean_band, tag_of
from .formatting import curve_title
from .plots import INK, Look, draw_legend, draw_mean, new_figure, save_png, to_svg

WIDEST = 4
"""Most panels in a row; further columns go below."""

Draw = Callable[[Any, dict[str, Any]], None]
"""Draws a panel on an axis and adds the handles of its lines, by label."""


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
    """The contents of a figure.

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
    tags = {
        (name, curve): tag_of(curve, metric, [r for line in plan.lines for r in line.records.get(name, [])])
        for name, _, metric in plan.columns
        for curve in plan.curves
    }
    columns = [column for column in plan.columns if any(tags[column[0], curve] for curve in plan.curves)]
    curves = [curve for curve in plan.curves if any(tags[column[0], curve] for column in columns)]
    if not columns:
        return None
    panels = {
        (name, curve): _panel(plan, name, tags[name, curve], title if curve == curves[0] else "")
        for name, title, _ in columns
        for curve in curves
    }
    styles = {line.label: line.look for line in plan.lines}
    inline, drawn = save_figure(plan.name, _arrange(panels, columns, curves), folder, styles)
    return Figure(plan.name, plan.title, inline, _note(plan, columns, drawn))


def _arrange(
    panels: dict[tuple[str, str], Any], columns: list[tuple[str, str, str]], curves: list[str]
) -> list[list[Any]]:
    """Return rows of panels: one per curve, further columns below; of a single column side by side."""
    if len(columns) == 1:
        return [[panels[columns[0][0], curve] for curve in curves]]
    width = math.ceil(len(columns) / math.ceil(len(columns) / WIDEST))
    blocks = [columns[i : i + width] for i in range(0, len(columns), width)]
    return [[panels[name, curve] for name, _, _ in block] for block in blocks for curve in curves]


def save_figure(
    name: str, panels: list[list[Draw | None]], folder: Path, styles: Mapping[str, Look]
) -> tuple[str, set[str]]:
    """Draw rows of panels and a legend, write them as SVG and PNG, and return the SVG for a page, and the labels.

    Args:
        name: Of the files.
        panels: What draws each of them; None for an empty place.
        folder: Where the files go.
        styles: The looks in the legend.
    """
    rows, width = len(panels), max(map(len, panels))
    handles: dict[str, Any] = {}
    with new_figure(rows, width, (max(3.0 * width, 4.4) + 0.3, 2.4 * rows + 0.75), name) as (figure, axes):
        for axis in axes.flat:
            axis.set_axis_off()
        for row, draws in zip(axes, panels, strict=True):
            for axis, draw in zip(row, draws, strict=False):
                if draw is not None:
                    axis.set_axis_on()
                    draw(axis, handles)
        draw_legend(figure, handles, styles)
        svg = to_svg(figure, transparent=True)
        figure.set_layout_engine("none")  # it is laid out by now
        save_png(figure, folder / f"{name}.png")
    (folder / f"{name}.svg").write_text(svg)
    return _inline(svg, name), set(handles)


def _panel(plan: FigurePlan, column: str, tag: str | None, title: str) -> Draw | None:
    """Return what draws a scalar of the runs of a column; None where no run has it."""
    if tag is None:
        return None
    bands = [(line, band) for line in plan.lines if (band := mean_band(line.records.get(column, []), tag))]

    def draw(axis: Any, handles: dict[str, Any]) -> None:
        for line, band in bands:
            handles[line.label] = draw_mean(axis, band.x, band.mean, line.look, band.deviation)
        axis.set(title=title, xlabel="samples" if tag.startswith("online/") else "iterations", ylabel=curve_title(tag))
        axis.ticklabel_format(axis="x", style="plain", useOffset=False)
        axis.locator_params(axis="x", nbins=5)
        axis.locator_params(axis="y", nbins=6)

    return draw


def _note(plan: FigurePlan, columns: list[tuple[str, str, str]], drawn: set[str]) -> str:
    lacking = [line.label for line in plan.lines if line.label not in drawn]
    panels = [title for name, title, metric in plan.columns if (name, title, metric) not in columns]
    parts = [f"no curve of {', '.join(lacking)}"] if lacking else []
    return "; ".join(parts + ([f"not run: {'; '.join(panels)}"] if panels else []))


def _inline(svg: str, name: str) -> str:
    """Return an SVG for a page with others: in the page's colour, its names its own, coordinates to 1/100."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|xlink:href="#)', rf"\1{name}-", svg)
    svg = re.sub(r"(\d+\.\d{2})\d+(?=[^<>]*>)", r"\1", svg)  # within tags: text is what the axes say
    svg = re.sub(r'<svg ([^>]*?)width="([\d.]+)pt"', r'<svg \1style="width:\2pt" role="img"', svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    return svg.replace(INK, "currentColor")
