"""A small table of its own beside the shipped ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from filtune.experiments import tables

from tests.reports.factory import own_table


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root, where ``own.table`` is the only table there is."""
    own_table(tmp_path)
    monkeypatch.setattr(tables, "PAPERS", tmp_path / "papers")
    return tmp_path / "root"
