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
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from filtune.experiments.composition import lookup
from filtune.experiments.records import Record, metric_of

from .curves import MeanBand, mean_band
from .figures import WIDEST, Draw, FigurePlan, SeriesLine, line_panel
from .formatting import curve_title, metric_title
from .plots import MATRICES, Look, log_scale, looks, looks_of

if TYPE_CHECKING:
    from .sections import Section
    from .seed_runs import SeedRuns


def panel_plans(section: Section) -> list[FigurePlan]:
    """Return the figures that a table describes itself."""
    return [
        _plan(f"{section.slug}_figure{number or ''}", figure, section)
        for number, figure in enumerate(section.table.raw.get("figures") or [])
    ]


def _plan(name: str, figure: dict[str, Any], section: Section) -> FigurePlan:
    styles = _styles(figure["panels"], section)
    rows: list[list[Draw | None]] = [[]]
    missing = []
    for panel in figure["panels"]:
        found = _maps(section, panel) if "maps" in panel else _panel(section, panel, styles)
        if not found:
            missing.append(str(panel.get("title", "")))
        elif "maps" not in panel and len(rows[-1]) < WIDEST and not (rows[-1] and "maps" in figure["panels"][0]):
            rows[-1] += found
        else:
            rows.append([*found])
    several = any(len(point.records) > 1 for cell in section.cells.values() for point in cell.points)
    note = f"not run: {'; '.join(missing)}" if missing else ""
    return FigurePlan(name, figure["title"], rows, styles, note, several)


def _styles(panels: list[dict[str, Any]], section: Section) -> dict[str, Look]:
    """Return the look of each label: that of its method where this distinguishes the lines, as of a baseline."""

    def optimizers(kind: str) -> list[tuple[str, str]]:
        specs = {label: spec for panel in panels for label, spec in (panel.get(kind) or {}).items()}
        names = {label: str(spec["cell"] if isinstance(spec, dict) else spec) for label, spec in specs.items()}
        rows = section.table.rows
        return [
            (label, next((row.optimizer for row in rows if fnmatchcase(row.name, name.split("/")[0])), ""))
            for label, name in names.items()
        ]

    return looks((label, optimizer, "tuned") for label, optimizer in optimizers("level")) | looks_of(
        optimizers("lines")
    )


def _panel(section: Section, panel: dict[str, Any], styles: dict[str, Look]) -> list[Draw]:
    """Return the panel of lines, or nothing where no run has them."""
    lines, levels = (
        [
            line
            for label, spec in (panel.get(kind) or {}).items()
            for line in _line(section, panel, label, spec, styles[label], kind == "level")
        ]
        for kind in ("lines", "level")
    )
    if not lines:
        return []
    y, option = panel.get("y", ""), str(panel.get("x", "")).rpartition(".")[2]
    over = (f"1 - {option}" if panel.get("complement") else option) or lines[0].band.unit
    title = metric_title(y) if option else curve_title(y)
    plain = line_panel([*lines, *levels], str(panel.get("title", "")), over, "" if "measured" in y else title)

    def draw(axis: Any, handles: dict[str, Any]) -> None:
        plain(axis, handles)
        for which in panel.get("log") or []:
            log_scale(axis, which, [x for line in lines for x in line.band.x] if which == "x" else (1.0,))

    return [draw]


def _line(
    section: Section, panel: dict[str, Any], label: str, spec: Any, look: Look, is_level: bool
) -> Iterator[SeriesLine]:
    """Yield the line, where there are runs of it."""
    given = spec if isinstance(spec, dict) else {"cell": spec}
    y, pattern = str(given.get("y", panel.get("y", ""))), str(given["cell"])
    look = replace(look, stroke=str(given.get("stroke") or ("--" if is_level else look.stroke)))
    every = "x" in panel and not is_level
    records = [record for point in _points(section, pattern, every) for record in point.records.values()]
    if "x" not in panel:
        if (band := mean_band(records, y)) is not None:
            yield SeriesLine(label, look, band)
        return
    from pandas import DataFrame

    pairs = [(0.0 if is_level else _option(r, panel), metric_of(r, y)) for r in records if r["status"] == "finished"]
    found = DataFrame(pairs, columns=["x", "y"], dtype=float).dropna().groupby("x").y.agg(["mean", "std"])
    if len(found):
        x, mean, deviation = found.index.to_numpy(), found["mean"].to_numpy(), found["std"].fillna(0.0).to_numpy()
        yield SeriesLine(label, look, MeanBand(x, mean, deviation), "level" if is_level else "points")


def _points(section: Section, pattern: str, every: bool) -> Iterator[SeedRuns]:
    """Yield the runs of the cells that match: all points of a grid, the best one, or those that the pattern names."""
    for name, cell in {cell.name: cell for cell in section.cells.values()}.items():
        if fnmatchcase(name, pattern):
            yield from cell.points if every else [cell.point]
        else:
            yield from (point for point in cell.points if point.setting and fnmatchcase(point.name, pattern))


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
        axis.set_title(f"{title}\nk = {step}", fontsize=8)

    return draw
