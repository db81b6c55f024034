"""Figures that a table describes itself: curves, metrics over an option, and matrices.

``figures`` of a table is a list of figures, each with a ``title`` and ``panels``. A panel has a ``title`` and

* ``y``: the tag of a curve, drawn over the samples or steps; or, with ``x``, the dotted key of an option, a metric,
  drawn over the values of that option (``complement``: over one minus them);
* ``lines``: by label the cells ``row/column`` of a line, a pattern, or a mapping with ``cell`` and a ``y`` and
  ``stroke`` of its own. A curve of a row with a grid is that of its best point, unless the pattern names a point;
* ``level``: the same for the dashed lines of baselines, and ``log``: the axes with a logarithmic scale;

or ``maps``, the name of the matrices to be drawn, and their ``cell``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filtune.experiments.composition import lookup
from filtune.experiments.records import Record, metric_of

from .curves import mean_band
from .figures import INK, WIDEST, Figure, axis_labels, save_figure
from .formatting import Look, curve_title, distinct_looks, metric_title

if TYPE_CHECKING:
    from .cells import PointRuns
    from .sections import Section

Draw = Callable[[Any, dict[str, Any]], None]
"""Draws a panel on an axis and adds the handles of its lines, by label."""


@dataclass(frozen=True)
class PanelPlan:
    """A figure of a table.

    Attributes:
        name: Of its files.
        title: Caption.
        panels: Their descriptions.
        section: The table, with its runs.
    """

    name: str
    title: str
    panels: list[dict[str, Any]]
    section: Section


def panel_plans(section: Section) -> list[PanelPlan]:
    """Return the figures that a table describes itself."""
    figures = section.table.raw.get("figures") or []
    return [
        PanelPlan(f"{section.slug}_figure{number or ''}", figure["title"], figure["panels"], section)
        for number, figure in enumerate(figures)
    ]


def draw_panels(plan: PanelPlan, folder: Path) -> Figure | None:
    """Draw a figure as SVG and PNG; none where no run has anything of it."""
    labels = [label for panel in plan.panels for label in panel.get("lines") or {}]
    looks = distinct_looks(list(dict.fromkeys(labels)))
    rows: list[list[Draw]] = [[]]
    missing = []
    for panel in plan.panels:
        found = _maps(plan.section, panel) if "maps" in panel else _panel(plan.section, panel, looks)
        if not found:
            missing.append(str(panel.get("title", "")))
        elif "maps" in panel:
            rows.append(found)
        elif len(rows[-1]) < WIDEST and not (rows[-1] and "maps" in plan.panels[0]):
            rows[-1] += found
        else:
            rows.append(found)
    rows = [row for row in rows if row]
    if not rows:
        return None

    def draw(axes: Any) -> dict[str, Any]:
        handles: dict[str, Any] = {}
        for row, panels in zip(axes, rows, strict=True):
            for axis, panel in zip(row, panels, strict=False):
                axis.set_axis_on()
                panel(axis, handles)
        return handles

    inline = save_figure(plan.name, (len(rows), max(map(len, rows))), folder, draw)
    return Figure(plan.name, plan.title, inline, f"not run: {'; '.join(missing)}" if missing else "")


def _panel(section: Section, panel: dict[str, Any], looks: dict[str, Look]) -> list[Draw]:
    """Return the panel of lines, or nothing where no run has them."""
    lines = [line for label, spec in (panel.get("lines") or {}).items() for line in _line(section, panel, label, spec)]
    if not lines:
        return []
    levels = [line for label, spec in (panel.get("level") or {}).items() for line in _line(section, panel, label, spec)]

    def draw(axis: Any, handles: dict[str, Any]) -> None:
        for line in lines:
            handles[line.label] = line.draw(axis, line.stroke or looks[line.label].stroke, looks[line.label].colour)
        for line in levels:
            colour = looks[line.label].colour if line.label in looks else INK
            drawn = line.draw_level(axis, line.stroke or "--", colour)
            handles.setdefault(line.label, drawn)
        if "x" in (panel.get("log") or []):
            _log_scale(axis, [value for line in lines for value in line.x])
        if "y" in (panel.get("log") or []):
            axis.set_yscale("log")
            _plain_numbers(axis.yaxis)
        name = str(panel.get("x", "")).rpartition(".")[2]
        over = f"1 - {name}" if panel.get("complement") else name
        y = panel.get("y", "")
        title = metric_title(y) if panel.get("x") else curve_title(y)
        axis_labels(axis, str(panel.get("title", "")), over or lines[0].unit, "" if "measured" in y else title)

    return [draw]


def _log_scale(axis: Any, values: list[float]) -> None:
    least = min((value for value in values if value > 0), default=1.0)
    if min(values) > 0:
        axis.set_xscale("log")
    else:  # zero is among the values of an option
        axis.set_xscale("symlog", linthresh=least)
        axis.set_xlim(left=-least / 2)
    _plain_numbers(axis.xaxis)


def _plain_numbers(axis: Any) -> None:
    """Write the numbers of a logarithmic axis without mathematics, which labels do not have."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


@dataclass(frozen=True)
class SeriesLine:
    """A line of a panel: mean and deviation over the seeds at each x.

    Attributes:
        label: In the legend.
        stroke: As matplotlib writes it; empty for the usual one.
        x: (N,).
        mean: (N,).
        deviation: (N,).
        unit: Of x.
        is_curve: Whether x are samples or steps, rather than values of an option.
    """

    label: str
    stroke: str
    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    unit: str
    is_curve: bool

    def draw(self, axis: Any, stroke: str, colour: str) -> Any:
        """Draw it, and return its handle."""
        if not self.is_curve:
            style = {"color": colour, "linestyle": stroke, "marker": "o", "ms": 3, "capsize": 2, "linewidth": 1.3}
            return axis.errorbar(self.x, self.mean, self.deviation, **style)
        few = "o" if len(self.x) < 3 else None
        (handle,) = axis.plot(self.x, self.mean, color=colour, linestyle=stroke, linewidth=1.3, marker=few, ms=3)
        low, high = self.mean - self.deviation, self.mean + self.deviation
        axis.fill_between(self.x, low, high, color=colour, alpha=0.13, linewidth=0)
        return handle

    def draw_level(self, axis: Any, stroke: str, colour: str) -> Any:
        """Draw it as a baseline: a curve, or a level over all values of an option."""
        if self.is_curve:
            return self.draw(axis, stroke, colour)
        return axis.axhline(self.mean[0], color=colour, linestyle=stroke, linewidth=1.0)


def _line(section: Section, panel: dict[str, Any], label: str, spec: Any) -> Iterator[SeriesLine]:
    """Yield the line, where there are runs of it."""
    given = spec if isinstance(spec, dict) else {"cell": spec}
    y, pattern, stroke = str(given.get("y", panel.get("y", ""))), str(given["cell"]), str(given.get("stroke", ""))
    is_level = label in (panel.get("level") or {}) and spec is panel["level"][label]
    if "x" not in panel:
        records = [r for point in _points(section, pattern, False) for r in point.records.values()]
        band = mean_band(records, y)
        if band is not None:
            yield SeriesLine(label, stroke, band.x, band.mean, band.deviation, _unit(y, records), True)
        return
    values: dict[float, list[float]] = {}
    for point in _points(section, pattern, not is_level):
        for record in point.records.values():
            x, value = (0.0 if is_level else _option(record, panel)), metric_of(record, y)
            if x is not None and value is not None and record["status"] == "finished":
                values.setdefault(x, []).append(value)
    if values:
        x = np.array(sorted(values))
        mean = np.array([np.mean(values[key]) for key in sorted(values)])
        spread = [np.std(values[key], ddof=1) if len(values[key]) > 1 else 0.0 for key in sorted(values)]
        yield SeriesLine(label, stroke, x, mean, np.array(spread), "", False)


def _unit(tag: str, records: list[Record]) -> str:
    counted = tag.startswith("measured/") and any(record.get("steps") for record in records)  # along a run of fit
    return "samples" if counted or tag.startswith("online/") else "steps"


def _points(section: Section, pattern: str, every: bool) -> Iterator[PointRuns]:
    """Yield the runs of the cells that match: all points of a grid, the best one, or those that the pattern names."""
    for name, cell in {cell.name: cell for cell in section.cells.values()}.items():
        if fnmatchcase(name, pattern):
            yield from cell.points if every else [cell.point]
        else:
            yield from (point for point in cell.points if point.name and fnmatchcase(f"{name}/{point.name}", pattern))


def _option(record: Record, panel: dict[str, Any]) -> float | None:
    value = lookup(record["config"], str(panel["x"]))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return 1 - value if panel.get("complement") else float(value)


def _maps(section: Section, panel: dict[str, Any]) -> list[Draw]:
    """Return the matrices of the first run that kept any, in the order of the steps."""
    records = [r for point in _points(section, str(panel["cell"]), True) for r in point.records.values()]
    kept = next((found for r in records if (found := (r.get("maps") or {}).get(panel["maps"]))), None)
    if not isinstance(kept, dict):
        return []
    try:
        matrices = {int(step): np.asarray(rows, dtype=float) for step, rows in kept.items()}
    except (ValueError, TypeError):  # of a damaged record
        return []
    if any(matrix.ndim != 2 or not matrix.size for matrix in matrices.values()):
        return []
    largest = max(float(np.nanmax(matrix)) for matrix in matrices.values()) or 1.0
    return [_image(step, matrices[step], largest, str(panel.get("title", ""))) for step in sorted(matrices)]


def _image(step: int, matrix: np.ndarray, largest: float, title: str) -> Draw:
    def draw(axis: Any, handles: dict[str, Any]) -> None:
        from matplotlib.colors import LogNorm

        axis.imshow(np.maximum(matrix, largest * 1e-4), norm=LogNorm(largest * 1e-4, largest), cmap="magma")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{title}, k = {step}", fontsize=8)

    return draw
