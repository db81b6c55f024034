"""A grid is tried with some seeds; its best point alone goes on with the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from filtune.experiments import launchers, reproduce
from filtune.experiments.cells import cells
from filtune.experiments.records import Store
from filtune.experiments.search import first_round, second_round
from filtune.experiments.tables import load_table

from tests.experiments.conftest import write_table
from tests.reports.factory import record


@pytest.fixture
def study(tmp_path: Path) -> str:
    """A method without a grid and a baseline with one; two of three seeds are for tuning."""
    path = Path(write_table(tmp_path))
    raw = yaml.safe_load(path.read_text()) | {"seeds": [0, 1, 2], "tuning_seeds": [0, 1]}
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(path)


def accuracies(study: str, of: dict[str, list[float | None]]) -> dict[str, dict[str, Any]]:
    """Records by key; none diverged."""
    named = {cell.name: cell for cell in cells(load_table(study))}
    found = {}
    for name, values in of.items():
        for seed, figure in enumerate(values):
            key = named[name].key(seed)
            status = "diverged" if figure is None else "finished"
            found[key] = record(key, seed, {} if figure is None else {"online_accuracy": figure}, status=status)
    return found


def test_the_first_round_tries_the_grid_with_the_tuning_seeds(study: str) -> None:
    table = load_table(study)
    plan = first_round(table, cells(table), table.seeds, {})
    assert plan == {"loko/digits": [0, 1, 2], "tuned/digits/lr=0.001": [0, 1], "tuned/digits/lr=0.01": [0, 1]}


@pytest.mark.parametrize(
    ("low", "high", "best"),
    [
        ([80.0, 80.0], [90.0, 60.0], "tuned/digits/lr=0.001"),
        ([80.0, 80.0], [90.0, 75.0], "tuned/digits/lr=0.01"),
        ([60.0, 60.0], [90.0, None], "tuned/digits/lr=0.001"),  # what diverges once is not best
        ([None, None], [None, None], None),
    ],
)
def test_the_second_round_is_the_best_points(study: str, low: list, high: list, best: str | None) -> None:
    table = load_table(study)
    records = accuracies(study, {"tuned/digits/lr=0.001": low, "tuned/digits/lr=0.01": high})
    assert second_round(table, cells(table), table.seeds, records) == ({best: [2]} if best else {})


def test_a_table_without_tuning_seeds_runs_all_points_with_all_seeds(tmp_path: Path) -> None:
    table = load_table(write_table(tmp_path))
    found = cells(table)
    assert set(map(tuple, first_round(table, found, [0, 1], {}).values())) == {(0, 1)}
    assert second_round(table, found, [0, 1], {}) == {}


def test_reproduce_runs_both_rounds_and_keeps_what_was_run(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_up(job: Any, store: Store, *_: Any) -> dict[str, Any]:
        score = 90.0 if "0.01" in job.label else 80.0
        found = record(job.key, job.seed, {"online_accuracy": score}, config=job.config)
        store.write(found)
        return found

    monkeypatch.setattr(launchers, "run", made_up)
    assert reproduce.main([study, "--root", str(tmp_path)]) == 0
    assert "8 runs, 0 of them made before" in capsys.readouterr().out
    manifest = json.loads(next((tmp_path / "manifests").iterdir()).read_text())
    assert {name: sorted(found) for name, found in manifest["cells"].items()} == {
        "loko/digits": ["0", "1", "2"],
        "tuned/digits/lr=0.001": ["0", "1"],
        "tuned/digits/lr=0.01": ["0", "1", "2"],
    }
    assert reproduce.main([study, "--root", str(tmp_path)]) == 0
    assert "8 runs, 8 of them made before" in capsys.readouterr().out


def test_tuning_seeds_are_seeds_of_the_table(tmp_path: Path) -> None:
    path = Path(write_table(tmp_path))
    path.write_text(path.read_text() + "\ntuning_seeds: [7]\n")
    with pytest.raises(ValueError, match=r"tuning_seeds \[7\] are to be some of its seeds"):
        load_table(str(path))
