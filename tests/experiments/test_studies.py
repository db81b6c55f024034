"""The studies that ship: every cell composes, and a comparison is between rows that are there."""

from __future__ import annotations

import pytest
from filtune.experiments.cells import cells
from filtune.experiments.composition import CONFIGS, lookup
from filtune.experiments.tables import load_table

STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_can_be_run(path) -> None:
    table = load_table(str(path))
    found = cells(table)
    assert len({cell.key(0) for cell in found}) == len(found)
    assert all(lookup(cell.config, "optimizer.class_path") for cell in found)
    rules, rows = table.raw["comparison"], {row.name for row in table.rows}
    assert {rules["method"], *(row for rows_of in rules["baselines"].values() for row in rows_of)} == rows
    assert set(rules.get("targets", {})) <= set(rules["baselines"])
    reserved = rules.get("reserved", {})
    assert set(reserved.get("seeds", [])) <= set(table.seeds) - set(table.tuning_seeds)
    assert set(reserved.get("columns", [])) <= {column.name for column in table.columns}
    assert set(table.tuning_seeds) <= set(table.seeds)
