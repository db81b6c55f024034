"""A few generated rows for the experiments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments.schema import write_glue


@pytest.fixture(scope="session")
def generated_glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GLUE's tasks of 24 rows each, in the hub's layout."""
    return write_glue(tmp_path_factory.mktemp("glue"))
