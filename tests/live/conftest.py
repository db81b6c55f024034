"""A small learner to be served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.serving_runs import new_learner, serving


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    new_learner().save(folder / "start.ckpt")
    return folder / "start.ckpt"


@pytest.fixture
def folder(start: Path, tmp_path: Path) -> Path:
    (tmp_path / "start.ckpt").write_bytes(start.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def client(start: Path) -> Iterator[Any]:
    """A service for requests that change nothing."""
    with serving(start.parent) as client:
        yield client
