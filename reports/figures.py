"""Figures of a page: rows of panels with lines, the papers' curves and those of runs among them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from filtune.experiments.records import Record

from .curves import MeanBand, mean_band, tag_of
from .formatting import curve_title
from .plots import INK, PAPER, Look, draw_legend, draw_mean, draw_points, new_figure, save_png, to_svg

WIDTH = 10.0
"""Width of a figure in inches; a page shows it as wide as itself, so that its letters have one size."""

WIDEST = 3
"""Most panels in a row; further columns go below."""

Draw = Callable[[Any, dict[str, Any]], None]
"""Draws a panel on an axis and adds the handles of its lines, by label."""


class SeriesLine(NamedTuple):
    """A line of a panel.

    Attributes:
        label: In the legend.
        look: Colour and stroke.
        band: Mean and deviation over the seeds at each x.
        kind: ``curve`` over samples or steps, ``points`` over the values of an option, or ``level`` over all of them.
    """

    label: str
    look: Look
    band: MeanBand
    kind: str = "curve"

    def draw(self, axis: Any) -> Any:
        """Draw it, and return its handle."""
        if self.kind == "level":
            return axis.axhline(self.band.mean[0], color=self.look.colour, linestyle=self.look.stroke, linewidth=1.0)
        draw = draw_mean if self.kind == "curve" else draw_points
        return draw(axis, self.band.x, self.band.mean, self.look, self.band.deviation)


class Line(NamedTuple):
    """The runs behind a line of curves.

    Attributes:
        label: In the legend.
        look: Colour and stroke.
        records: The records of each column of panels, by its name.
        has_band: Whether the deviation is drawn.
    """

    label: str
    look: Look
    records: dict[str, list[Record]]
    has_band: bool = True

    def series(self, column: str, tag: str) -> list[SeriesLine]:
        """Return its curve in a column; none where no run has it."""
        band = mean_band(self.records.get(column, []), tag)
        if band is None:
            return []
        return [SeriesLine(self.label, self.look, band if self.has_band else replace(band, deviation=None))]


@dataclass
class FigurePlan:
    """A figure: its contents, and its SVG for a page once it is drawn.

    Attributes:
        name: Of its files.
        title: Caption.
        rows: What draws each panel, row by row; None for an empty place. A figure without a panel is not drawn.
        looks: In the legend, by label.
        note: What is not in it.
        several: Whether there are means of several seeds.
        lines: The runs behind it, where it is of their curves.
        size: Width and height in inches; by default as wide as a page, with a height for the rows.
        dpi: Resolution of the PNG.
        ends: Ends of the names of its files; the last is the one that a page of Markdown shows.
        is_opaque: Whether the SVG has a white ground of its own.
        inline: Its SVG for a page, in the colour of the page's text; empty where nothing was drawn.
    """

    name: str
    title: str
    rows: list[list[Draw | None]]
    looks: Mapping[str, Look]
    note: str = ""
    several: bool = False
    lines: list[Line] = field(default_factory=list)
    size: tuple[float, float] | None = None
    dpi: int = 130
    ends: Sequence[str] = (".png", ".svg")
    is_opaque: bool = False
    inline: str = ""


def draw_figure(plan: FigurePlan, folder: Path) -> list[Path]:
    """Draw a figure, write its files into a folder and return them; none where no run has anything of it."""
    if not any(map(any, plan.rows)):
        return []
    plan.inline = save_figure(plan, folder)
    return [folder / f"{plan.name}{end}" for end in plan.ends]


def plan_curves(
    name: str, title: str, columns: Sequence[tuple[str, str, str]], curves: Sequence[str], lines: list[Line]
) -> FigurePlan:
    """Return the plan of a figure of logged scalars: one column of panels a data set and model, one row a curve.

    Args:
        name: Of its files.
        title: Caption.
        columns: Name, title and metric of each column of panels.
        curves: Tags of the scalars; ``metric`` for that of the column.
        lines: The methods.
    """
    panels: dict[tuple[str, str], Draw] = {}
    drawn: set[str] = set()
    for curve in curves:
        for column, heading, metric in columns:
            tag = tag_of(curve, metric, [record for line in lines for record in line.records.get(column, [])])
            if tag is not None:
                series = [each for line in lines for each in line.series(column, tag)]
                drawn.update(each.label for each in series)
                first = not any(other == column for other, _ in panels)
                panels[column, curve] = line_panel(
                    series, heading * first, series[0].band.unit if series else "", curve_title(tag)
                )
    kept = [column for column in columns if any(column[0] == name for name, _ in panels)]
    used = [curve for curve in curves if any(curve == other for _, other in panels)]
    several = any(len(records) > 1 for line in lines for records in line.records.values())
    looks = {line.label: line.look for line in lines}
    note = _note(lines, columns, kept, drawn)
    return FigurePlan(name, title, _arrange(panels, [column[0] for column in kept], used), looks, note, several, lines)


def line_panel(series: Sequence[SeriesLine], title: str, xlabel: str, ylabel: str) -> Draw:
    """Return what draws lines on an axis, with few ticks in plain numbers."""

    def draw(axis: Any, handles: dict[str, Any]) -> None:
        for line in series:
            handles.setdefault(line.label, line.draw(axis))
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axis.ticklabel_format(axis="x", style="plain", useOffset=False)
        axis.locator_params(axis="x", nbins=5)
        axis.locator_params(axis="y", nbins=6)

    return draw


def _arrange(
    panels: Mapping[tuple[str, str], Draw], columns: Sequence[str], curves: Sequence[str]
) -> list[list[Draw | None]]:
    """Return rows of panels: one per curve, further columns below; of a single column side by side."""
    if len(columns) < 2:
        return [[panels.get((column, curve)) for curve in curves] for column in columns]
    width = math.ceil(len(columns) / math.ceil(len(columns) / WIDEST))
    blocks = [columns[i : i + width] for i in range(0, len(columns), width)]
    return [[panels.get((column, curve)) for column in block] for block in blocks for curve in curves]


def _note(lines: Sequence[Line], columns: Sequence[Any], kept: Sequence[Any], drawn: set[str]) -> str:
    run = {name for line in lines for name, records in line.records.items() if records}
    lacking = [line.label for line in lines if line.label not in drawn]
    missing = [column for column in columns if column not in kept]
    parts = {
        "no curve of ": ", ".join(lacking),
        "no curve on ": "; ".join(title for name, title, _ in missing if name in run),
        "not run: ": "; ".join(title for name, title, _ in missing if name not in run),
    }
    return "; ".join(words + titles for words, titles in parts.items() if titles)


def save_figure(plan: FigurePlan, folder: Path) -> str:
    """Write the files of a figure into a folder, and return the SVG for a page; it is laid out for the file shown."""
    ground: dict[str, Any] = {"facecolor": PAPER} if plan.is_opaque else {"transparent": True}
    svg = ""
    with drawn_figure(plan) as figure:
        for end in (".png", ".svg") if plan.ends[-1] == ".png" else (".svg", ".png"):
            if end == ".svg":
                svg = to_svg(figure, **ground)
            elif end in plan.ends:
                save_png(figure, folder / f"{plan.name}.png", plan.dpi)
            figure.set_layout_engine("none")  # it is laid out by now
    if ".svg" in plan.ends:
        (folder / f"{plan.name}.svg").write_text(svg)
    return _inline(svg, plan.name)


@contextmanager
def drawn_figure(plan: FigurePlan) -> Iterator[Any]:
    """Yield a figure with its panels and a legend, as wide as a page."""
    rows = [row for row in plan.rows if any(row)] or [[None]]
    width, handles = max(map(len, rows)), dict[str, Any]()
    size = (WIDTH, (2.6 if width > 1 else 3.2) * len(rows) + 0.75)
    with new_figure(len(rows), width, plan.size or size, plan.name) as (figure, axes):
        for axis in axes.flat:
            axis.set_axis_off()
        for row, draws in zip(axes, rows, strict=True):
            for axis, draw in zip(row, draws, strict=False):
                if draw is not None:
                    axis.set_axis_on()
                    draw(axis, handles)
        draw_legend(figure, handles, plan.looks)
        yield figure


def _inline(svg: str, name: str) -> str:
    """Return an SVG for a page with others: in the page's colour, its names its own, coordinates to 1/100."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|xlink:href="#)', rf"\1{name}-", svg)
    svg = re.sub(r"(\d+\.\d{2})\d+(?=[^<>]*>)", r"\1", svg)  # within tags: text is what the axes say
    head, _, rest = svg.partition(">")
    head = re.sub(r' (width|height)="[\d.]+pt"', "", head)  # it is as wide as the page
    return f'{head} role="img" aria-label="{name}">{rest}'.replace(INK, "currentColor")
