"""A user-defined table over the digits, small enough to be run."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filtune.experiments import reproduce

from tests.cli.harness import forked_workers

TABLE = {
    "title": "Digits",
    "kind": "table",
    "metric": "online_accuracy",
    "published_seeds": 3,
    "seeds": [0],
    "set": {
        "data.max_samples": 48,
        "data.max_val_samples": 20,
        "trainer.log_every_n_steps": 8,
        "run.save_interval": 8,
    },
    "columns": [{"name": "digits", "title": "Digits, LeNet-5", "task": "digits", "backbone": "lenet5"}],
    "rows": [
        {"name": "loko", "title": "LoKO", "optimizer": "loko", "published": [[80.0, 1.0]]},
        {"name": "tuned", "title": "AdamW, tuned", "optimizer": "adamw_1e-3", "grid": {"optimizer.lr": [1e-3, 1e-2]}},
    ],
}


def write_table(folder: Path, **changes) -> str:
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump({**TABLE, **changes}))
    return str(path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[str, Path]:
    """A table that was run: its file and its root; to be read only."""
    folder = tmp_path_factory.mktemp("finished")
    table = write_table(folder)
    with forked_workers():
        assert reproduce.main([table, "--root", str(folder / "root"), "--jobs", "2", "--threads", "1"]) == 0
    return table, folder / "root"


@pytest.fixture
def forked() -> Iterator[None]:
    """Runs are forked."""
    with forked_workers():
        yield


@pytest.fixture
def copied(finished, tmp_path) -> tuple[str, Path]:
    """A copy of it that may be spoilt."""
    table, root = finished
    shutil.copytree(root, tmp_path / "root")
    return table, tmp_path / "root"
