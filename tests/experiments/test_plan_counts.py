"""The plan counts cells as the list of tables does, and the runs that the best points of grids are still to make."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from filtune.experiments import plan, reproduce
from filtune.experiments.cells import cells
from filtune.experiments.estimate import START
from filtune.experiments.records import Store
from filtune.experiments.tables import load_table, table_names
from rich.console import Console

from tests.experiments.conftest import write_table
from tests.reports.factory import record


def test_the_list_counts_the_cells_that_the_plan_shows() -> None:
    """A grid, several columns, rows that have some of them, a table over others."""
    for name in ("loko.table5", "grng.theorem", "curves", "win_steady"):
        assert plan.count_cells(load_table(name)) == len(cells(load_table(name)))


def test_the_list_has_all_tables_and_their_cells() -> None:
    file = io.StringIO()
    plan.print_tables(Console(file=file, width=200))
    rows = [line.split("│")[1:-1] for line in file.getvalue().splitlines() if line.startswith("│")]
    listed = {name.strip(): int(number) for name, _, number in rows}
    assert set(listed) == set(table_names())
    assert listed["loko.table5"] == 118  # 8 rows, 8 with six values of p0 and one with three rates, in two columns


@pytest.fixture
def tuned(tmp_path: Path) -> tuple[str, Path]:
    """A row without a grid and one with two points, two columns that share their runs, one tuning seed of three."""
    path = Path(write_table(tmp_path))
    raw = yaml.safe_load(path.read_text()) | {"seeds": [0, 1, 2], "tuning_seeds": [0]}
    (column,) = raw["columns"]
    raw["columns"] += [{**column, "name": "val", "metric": "val_accuracy", "chosen_by": "online_accuracy"}]
    raw["rows"] = [{key: value for key, value in row.items() if key != "published"} for row in raw["rows"]]
    path.write_text(yaml.safe_dump(raw))
    return str(path), tmp_path / "root"


def total(said: str) -> str:
    return said.split(": about ")[0]


def test_the_best_points_of_grids_are_in_the_total(tuned: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Three runs of the row without a grid, two points with the tuning seed, the best one with two more."""
    table, root = tuned
    assert reproduce.main([table, "--root", str(root), "--dry-run"]) == 0
    assert total(capsys.readouterr().out) == "7 of 7 runs of 6 cells to be made"
    made = {cell.name: cell for cell in cells(load_table(table))}
    store = Store(root)
    for name, seed in (("loko/digits", 0), ("tuned/digits/lr=0.001", 0), ("tuned/digits/lr=0.01", 0)):
        store.write(kept(made[name], seed))
    assert reproduce.main([table, "--root", str(root), "--dry-run"]) == 0
    assert total(capsys.readouterr().out) == "4 of 7 runs of 6 cells to be made"
    store.write(kept(made["tuned/digits/lr=0.01"], 1))
    assert reproduce.main([table, "--root", str(root), "--dry-run"]) == 0
    assert total(capsys.readouterr().out) == "3 of 7 runs of 6 cells to be made"


def kept(cell: object, seed: int) -> dict:
    found = record(cell.key(seed), seed, {"online_accuracy": 50.0})
    return {**found, "config": cell.config}


def test_the_time_of_the_best_points_is_the_mean_of_their_grid(tmp_path: Path) -> None:
    added = plan.Total()
    added.add(["a", "b"], START, True)
    added.add(["b", "c"], 3 * START, False)
    added.add(["d"], None, True)
    assert (added.seconds, added.possible) == (5 * START, 2 * START)
    assert added.unknown == {"d"}
    assert added.runs == added.left == {"a", "b", "c", "d"}
