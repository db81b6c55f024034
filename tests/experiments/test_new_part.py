"""A backbone, a task or an optimizer is one new file: what is known of it stands there, and in no list elsewhere."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
from filtune.experiments import composition
from filtune.experiments.composition import CONFIGS, compose, metadata, shipped
from filtune.experiments.estimate import START, Estimator, RunSize, run_size
from filtune.optimizers import OnlineOptimizer
from filtune.reports.formatting import backbone_title

from tests.architecture import modules

FOLDERS = ("exports", "experiments", "filtune")
PARTS = {path.stem for kind in ("backbone", "optimizer", "task") for path in (CONFIGS / kind).glob("*.yaml")}


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped configurations with a user-defined backbone and task added."""
    folder = tmp_path / "configs"
    shutil.copytree(CONFIGS, folder)
    options = "model: {backbone: {name: tiny}}\n"
    (folder / "backbone" / "tiny.yaml").write_text(f"{options}metadata: {{title: Tiny Net, gflops: 2.0}}\n")
    options = "data: {class_path: DigitsDataModule}\n"
    (folder / "task" / "coins.yaml").write_text(f"{options}metadata: {{train_samples: 300, classes: 11}}\n")
    monkeypatch.setattr(composition, "CONFIGS", folder)
    return folder


class Slow(OnlineOptimizer):
    """A user-defined rule with its cost."""

    relative_cost = 3.0
    row_cost = 0.5


@pytest.mark.usefixtures("configs")
def test_a_part_is_known_from_its_own_file() -> None:
    config = compose(["task/coins", "backbone/tiny"], {"optimizer.class_path": f"{__name__}.Slow"})
    assert {"task/coins", "backbone/tiny"} <= set(shipped())
    assert set(config) == {"data", "model", "optimizer"}
    assert run_size(config, "coins") == RunSize(300, 300)
    assert backbone_title("tiny") == "Tiny Net"
    estimator = Estimator()
    estimator.speed = 100.0
    passes = 3 * 2.0 / 100.0  # forward and backward, of 2 GFLOP each way at 100 GFLOP/s
    assert estimator.seconds(config, "coins", "tiny") == START + 300 * passes * (3.0 + 0.5 * 9)


@pytest.mark.parametrize("name", ["own", "../backbone/minilm", "/etc/passwd", ""])
def test_a_name_that_is_no_file_of_the_folder_has_no_metadata(name: str) -> None:
    assert metadata("task", name) == {}


def test_no_part_is_named_in_the_code_of_others() -> None:
    named = [
        f"{module.name}: {node.value}"
        for module in modules()
        if module.folder in FOLDERS
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and node.value in PARTS - {"filtune"}  # the package itself
    ]
    assert not named
