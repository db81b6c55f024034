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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filtune.experiments.composition import lookup
from filtune.experiments.records import Record, metric_of

from .curves import MeanBand, mean_band
from .figures import WIDEST, Draw, Figure, save_figure
from .formatting import curve_title, metric_title
from .plots import MATRICES, Look, draw_mean, draw_points, log_scale, looks, looks_of

if TYPE_CHECKING:
    from .sections import Section
    from .seed_runs import SeedRuns


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
    styles = _styles(plan)
    rows: list[list[Draw | None]] = [[]]
    missing = []
    for panel in plan.panels:
        found = _maps(plan.section, panel) if "maps" in panel else _panel(plan.section, panel, styles)
        if not found:
            missing.append(str(panel.get("title", "")))
        elif "maps" not in panel and len(rows[-1]) < WIDEST and not (rows[-1] and "maps" in plan.panels[0]):
            rows[-1] += found
        else:
            rows.append([*found])
    rows = [row for row in rows if row]
    if not rows:
        return None
    inline, _ = save_figure(plan.name, rows, folder, styles)
    return Figure(plan.name, plan.title, inline, f"not run: {'; '.join(missing)}" if missing else "")


def _styles(plan: PanelPlan) -> dict[str, Look]:
    """Return the look of each label: that of its method where this distinguishes the lines, as of a baseline."""
    rows = plan.section.table.rows

    def optimizers(kind: str) -> dict[str, str]:
        specs = {label: spec for panel in plan.panels for label, spec in (panel.get(kind) or {}).items()}
        names = {label: str(spec["cell"] if isinstance(spec, dict) else spec) for label, spec in specs.items()}
        return {
            label: next((row.optimizer for row in rows if fnmatchcase(row.name, name.split("/")[0])), "")
            for label, name in names.items()
        }

    levels = looks((label, optimizer, "tuned") for label, optimizer in optimizers("level").items())
    return levels | looks_of([*optimizers("lines").items()])


def _panel(section: Section, panel: dict[str, Any], styles: dict[str, Look]) -> list[Draw]:
    """Return the panel of lines, or nothing where no run has them."""
    lines = [line for label, spec in (panel.get("lines") or {}).items() for line in _line(section, panel, label, spec)]
    if not lines:
        return []
    levels = [line for label, spec in (panel.get("level") or {}).items() for line in _line(section, panel, label, spec)]

    def draw(axis: Any, handles: dict[str, Any]) -> None:
        for line in lines:
            handles[line.label] = line.draw(axis, line.look(styles))
        for line in levels:
            handles.setdefault(line.label, line.draw(axis, line.look(styles, "--")))
        name = str(panel.get("x", "")).rpartition(".")[2]
        over = f"1 - {name}" if panel.get("complement") else name
        y = panel.get("y", "")
        title = metric_title(y) if panel.get("x") else curve_title(y)
        axis.set(title=str(panel.get("title", "")), xlabel=over or lines[0].unit)
        axis.set_ylabel("" if "measured" in y else title)
        for which in panel.get("log") or []:
            log_scale(axis, which, [x for line in lines for x in line.band.x] if which == "x" else (1.0,))

    return [draw]


@dataclass(frozen=True)
class SeriesLine:
    """A line of a panel.

    Attributes:
        label: In the legend.
        stroke: As matplotlib writes it; empty for the usual one.
        band: Mean and deviation over the seeds at each x.
        kind: ``curve`` over samples or steps, ``points`` over the values of an option, or ``level`` over all of them.
        unit: Of x.
    """

    label: str
    stroke: str
    band: MeanBand
    kind: str
    unit: str = ""

    def look(self, styles: dict[str, Look], usual: str = "") -> Look:
        """Return its look, with a stroke of its own or the usual one."""
        return replace(styles[self.label], stroke=self.stroke or usual or styles[self.label].stroke)

    def draw(self, axis: Any, look: Look) -> Any:
        """Draw it, and return its handle."""
        if self.kind == "level":
            return axis.axhline(self.band.mean[0], color=look.colour, linestyle=look.stroke, linewidth=1.0)
        draw = draw_mean if self.kind == "curve" else draw_points
        return draw(axis, self.band.x, self.band.mean, look, self.band.deviation)


def _line(section: Section, panel: dict[str, Any], label: str, spec: Any) -> Iterator[SeriesLine]:
    """Yield the line, where there are runs of it."""
    given = spec if isinstance(spec, dict) else {"cell": spec}
    y, pattern, stroke = str(given.get("y", panel.get("y", ""))), str(given["cell"]), str(given.get("stroke", ""))
    is_level = label in (panel.get("level") or {}) and spec is panel["level"][label]
    if "x" not in panel:
        records = [r for point in _points(section, pattern, False) for r in point.records.values()]
        if (band := mean_band(records, y)) is not None:
            yield SeriesLine(label, stroke, band, "curve", _unit(y, records))
        return
    from pandas import DataFrame

    records = [r for point in _points(section, pattern, not is_level) for r in point.records.values()]
    pairs = [(0.0 if is_level else _option(r, panel), metric_of(r, y)) for r in records if r["status"] == "finished"]
    found = DataFrame(pairs, columns=["x", "y"], dtype=float).dropna().groupby("x").y.agg(["mean", "std", "count"])
    if len(found):
        x, mean, deviation = found.index.to_numpy(), found["mean"].to_numpy(), found["std"].fillna(0.0).to_numpy()
        yield SeriesLine(label, stroke, MeanBand(x, mean, deviation, 1), "level" if is_level else "points")


def _unit(tag: str, records: list[Record]) -> str:
    counted = tag.startswith("measured/") and any(record.get("steps") for record in records)  # along a run of fit
    return "samples" if counted or tag.startswith("online/") else "steps"


def _points(section: Section, pattern: str, every: bool) -> Iterator[SeedRuns]:
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

        axis.grid(False)
        axis.imshow(np.maximum(matrix, largest * 1e-4), norm=LogNorm(largest * 1e-4, largest), cmap=MATRICES)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{title}, k = {step}", fontsize=8)

    return draw
