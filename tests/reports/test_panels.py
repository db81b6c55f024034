"""Figures that a table describes itself: which runs are drawn, and over what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from filtune.reports.document import assemble, figure_plans
from filtune.reports.figures import draw_figure
from filtune.reports.report import main

from tests.reports.factory import key_of, manifest, record

TABLE: dict[str, Any] = {
    "title": "Sensitivity",
    "kind": "table",
    "metric": "online_accuracy",
    "seeds": [0, 1],
    "columns": [{"name": "a", "title": "A", "task": "digits", "backbone": "lenet5"}],
    "rows": [
        {"name": "loko", "title": "LoKO", "optimizer": "loko", "grid": {"optimizer.p0": [0.0, 0.1, 1.0]}},
        {"name": "adamw", "title": "AdamW", "optimizer": "adamw_1e-3", "grid": {"optimizer.lr": [0.001, 0.01]}},
    ],
}


def made(row: str, option: str, value: float, accuracy: float, **changes: Any) -> dict[int, dict[str, Any]]:
    """Two seeds of a point of a grid, one percent above and one below the accuracy."""
    found = {}
    for seed, shift in enumerate((-1.0, 1.0)):
        config = {"optimizer": {"init_args": {option: value}}, "seed_everything": seed}
        metrics = {"online_accuracy": accuracy + shift}
        found[seed] = record(key_of(row, value, seed), seed, metrics, config=config, **changes)
    return found


def drawn(folder: Path, panels: list[dict[str, Any]], **more: dict[int, dict[str, Any]]) -> tuple[Any, str]:
    """Draw a figure over the runs: the figure, and the texts of its SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({**TABLE, "figures": [{"title": "Own figure", "panels": panels}]}, sort_keys=False))
    cells = {f"loko/a/p0={p0:g}": made("loko", "p0", p0, 70 + 10 * p0) for p0 in (0.0, 0.1, 1.0)}
    cells |= {f"adamw/a/lr={lr:g}": made("adamw", "lr", lr, 60 + 1000 * lr) for lr in (0.001, 0.01)}
    manifest(folder / "root", "own", {**cells, **more})
    document = assemble([folder / "root"], [str(path)])
    ((_, plan),) = figure_plans(document.sections)
    return (plan, (folder / f"{plan.name}.svg").read_text()) if draw_figure(plan, folder) else (None, "")


def test_a_metric_is_drawn_over_the_values_of_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    seen: list[Any] = []
    plain = Axes.errorbar
    monkeypatch.setattr(
        Axes,
        "errorbar",
        lambda self, x, y, e, **k: seen.append((list(x), list(y), list(e))) or plain(self, x, y, e, **k),
    )
    levels: list[float] = []
    level = Axes.axhline
    monkeypatch.setattr(Axes, "axhline", lambda self, y, **k: levels.append(y) or level(self, y, **k))
    panel = {
        "title": "Accuracy", "x": "optimizer.p0", "y": "online_accuracy", "log": ["x"], "lines": {"LoKO": "loko/*"},
        "level": {"AdamW, tuned": "adamw/a"},
    }  # fmt: skip
    figure, svg = drawn(tmp_path, [panel])
    ((x, mean, deviation),) = seen
    assert x == [0.0, 0.1, 1.0]  # zero is drawn on a symmetric scale
    assert mean == pytest.approx([70, 71, 80])
    assert deviation == pytest.approx([2**0.5] * 3)
    assert levels == pytest.approx([70.0])  # the best of AdamW's rates
    assert all(f">{text}<" in svg for text in ("LoKO", "AdamW, tuned", "p0"))
    assert figure.note == ""
    drawn(tmp_path / "b", [{**panel, "complement": True}])
    assert seen[-1][0] == pytest.approx([0.0, 0.9, 1.0])


def test_a_curve_is_that_of_the_best_point_or_of_the_one_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filtune.reports import panels

    asked: list[set[str]] = []
    plain = panels.mean_band
    monkeypatch.setattr(panels, "mean_band", lambda r, tag: asked.append({each["key"] for each in r}) or plain(r, tag))
    panel = {
        "title": "Curves", "y": "online/accuracy",
        "lines": {"best": "loko/a", "named": "loko/a/p0=0.1", "another": {"cell": "adamw/a", "y": "online/loss"}},
    }  # fmt: skip
    figure, svg = drawn(tmp_path, [panel, {"title": "Not there", "y": "measured/nothing", "lines": {"LoKO": "loko/a"}}])
    expected = [("loko", 1.0), ("loko", 0.1), ("adamw", 0.01)]
    assert asked[:3] == [{key_of(row, value, seed) for seed in (0, 1)} for row, value in expected]
    assert figure.note == "not run: Not there"
    assert ">samples<" in svg


def test_matrices_are_drawn_and_damaged_ones_are_not(tmp_path: Path) -> None:
    maps = {"covariance": {"0": [[1.0, 0.1], [0.1, 1.0]], "40": [[0.5, 0.0], [0.0, 0.5]]}}
    cells = {"loko/a/p0=1": made("loko", "p0", 1.0, 80.0, maps=maps)}
    panel = {"title": "P", "maps": "covariance", "cell": "loko/a"}
    _, svg = drawn(tmp_path / "a", [panel], **cells)
    assert all(f">k = {step}<" in svg for step in (0, 40))
    bad: list[Any] = [{"covariance": {"0": [[1.0], [1.0, 2.0]]}}, {"covariance": {"x": [[1.0]]}}, {"covariance": 3}, {}]
    for number, damaged in enumerate(bad):
        cells = {"loko/a/p0=1": made("loko", "p0", 1.0, 80.0, maps=damaged)}
        assert drawn(tmp_path / f"bad{number}", [panel], **cells) == (None, "")


def test_a_figure_stands_on_the_page_of_its_table(tmp_path: Path) -> None:
    drawn(tmp_path, [{"title": "Curves", "y": "online/accuracy", "lines": {"LoKO": "loko/a"}}])
    main([str(tmp_path / "root"), "--tables", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "report")])
    assert "![Own figure](own_figure.svg)" in (tmp_path / "report" / "own.md").read_text()
    assert (tmp_path / "report" / "own_figure.png").stat().st_size > 3000


def test_the_best_point_of_a_grid_is_chosen_by_another_metric(tmp_path: Path) -> None:
    """Of a column of times it is not the fastest that is shown, but the time of the best."""
    times = {"name": "time", "title": "Time", "task": "digits", "backbone": "lenet5", "metric": "wall_seconds"}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**TABLE, "columns": [{**times, "chosen_by": "online_accuracy"}]}))
    slow, fast = ({"times": {"wall_seconds": seconds}} for seconds in (9.0, 1.0))
    cells = {"adamw/time/lr=0.001": made("adamw", "lr", 0.001, 60, **fast)}
    cells["adamw/time/lr=0.01"] = made("adamw", "lr", 0.01, 70, **slow)
    manifest(tmp_path / "root", "own", cells)
    (section,) = assemble([tmp_path / "root"], [str(path)]).sections
    assert section.cells["adamw", "time/wall_seconds"].point.setting == "lr=0.01"
