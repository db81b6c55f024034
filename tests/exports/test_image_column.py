"""The images of a folder are predicted whatever the column was called that the run learned from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filtune.exports.inputs import Rows
from PIL import Image


def run_of(column: str) -> Any:
    """Return what is read of a run."""
    config = {"data": {"init_args": {"image_column": column, "source": "elsewhere", "name": "plain"}}}
    return SimpleNamespace(
        task=SimpleNamespace(modality="image", kind="classification", classes=("a", "b")), config=config
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "train.png"):
        Image.fromarray(np.full((4, 4), len(name), np.uint8)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("column", ["img", "image"])
def test_a_folder_has_one_column_of_images(folder: Path, column: str) -> None:
    rows = Rows(run_of(column), str(folder))
    assert len(rows.kept) == 2
    assert rows.batch([0])["image"][0].shape[-2:] == (4, 4)


def test_a_column_that_is_named_is_the_one(folder: Path) -> None:
    with pytest.raises(ValueError, match="--image_column: .* has no column 'img'"):
        Rows(run_of("image"), str(folder), columns=["img"])
