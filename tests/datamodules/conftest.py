"""Small data of every kind, and the folders laid out like the hub's where they are available."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from filtune.datamodules import StreamDataModule
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def hub() -> Path:
    """The folder of small data sets laid out like the hub's."""
    folder = Path(os.environ.get("FILTUNE_DATA", ROOT.parent / "shared")) / "data-tiny"
    if not folder.is_dir():
        pytest.skip("no data in the hub's layout is available (set FILTUNE_DATA to the folder that holds data-tiny)")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a file and return its path."""

    def write(name: str, content: str) -> str:
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


@pytest.fixture
def reviews(write: Callable[[str, str], str]) -> str:
    """A table of 20 texts of two classes."""
    return write(
        "reviews.csv", "text,label\n" + "".join(f"review {i},{'bad' if i % 3 else 'good'}\n" for i in range(20))
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six images of each of two classes."""
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(noise.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def rows(module: StreamDataModule) -> list[int]:
    """Rows that the stream hands out in an epoch."""
    return [row for batch in module.train_dataloader() for row in batch["row"].tolist()]
