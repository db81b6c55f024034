"""A small table of its own beside the shipped ones, and a small study with its records."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from filtune.experiments import tables

from tests.reports.factory import manifest, own_table, runs
from tests.reports.studies import STUDY, VALUES


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root, where ``own.table`` is the only table there is."""
    own_table(tmp_path)
    monkeypatch.setattr(tables, "PAPERS", tmp_path / "papers")
    return tmp_path / "root"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study and its records."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    manifest(tmp_path, "study", {cell: runs(cell, values) for cell, values in VALUES.items()})
    return path
