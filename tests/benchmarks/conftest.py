"""A few pairs of sentences for the experiments."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

PAIRS = [("good film", "great film"), ("bad plot", "love"), ("a dull actor is not great", "dull"), ("story", "story")]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few pairs of sentences, laid out as GLUE is."""
    folder = tmp_path_factory.mktemp("glue")
    rows = {
        "sentence1": [first for first, _ in PAIRS] * 3,
        "sentence2": [second for _, second in PAIRS] * 3,
        "label": [4.5, 0.5, 2.0, 5.0] * 3,
    }
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: stsb\n  data_dir: stsb\n---\n")
    for split in ("train", "validation"):
        Dataset.from_dict(rows).to_parquet(folder / "stsb" / f"{split}-00000-of-00001.parquet")
    return folder
