"""The grid of costs runs and keeps what it measured; every filter has its place in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cost
from benchmarks.methods import OPTIMIZERS


def test_every_filter_is_in_the_grid_and_blocks_are_only_where_they_fit() -> None:
    cells = list(cost.grid())
    assert {name for cell in cells for name in cell.optimizers()} == set(OPTIMIZERS) - {"sgd", "adagrad"}
    assert {(cell.state, cell.outputs) for cell in cells if cell.batch == 1} == {
        (state, outputs) for state in ("1e4", "1e5", "1e6") for outputs in (2, 10, 100)
    }
    assert {cell.batch for cell in cells} == {1, 2, 4, 8}
    assert {(cell.state, cell.outputs) for cell in cells if "full" in cell.optimizers()} == {("1e4", 2), ("1e4", 10)}


@pytest.mark.slow
def test_a_point_of_the_grid_is_kept_with_a_plot(tmp_path: Path) -> None:
    options = ["--states", "1e5", "--outputs", "2", "--batches", "1", "2", "--seconds", "0"]
    cost.main([*options, "--output", str(tmp_path / "cost")])
    result = json.loads((tmp_path / "cost.json").read_text())
    assert [(cell["state"], cell["outputs"], cell["batch"]) for cell in result["cells"]] == [
        ("1e5", 2, 1),
        ("1e5", 2, 2),
    ]
    for cell in result["cells"]:
        assert cell["rounds"] == 3
        assert cell["trainable_parameters"] == 83_714
        assert {"floor", "ordinary-floor", "adamw", "loko", "r-kalman", "low-rank", "neuron"} <= set(cell["optimizers"])
    assert {"device", "versions", "threads", "commit", "date"} <= set(result["environment"])
    assert (tmp_path / "cost.png").stat().st_size > 10_000
