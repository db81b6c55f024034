"""The state of a learner is predicted with and exported wherever it is: its configuration is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from filtune.exports.commands import run_export, run_predict
from filtune.exports.restore import restore
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import SNAPSHOT, open_state
from filtune.optimizers import LoKO

from filtune import OnlineLearner


@pytest.fixture
def state(encoder: Path, tmp_path: Path) -> Path:
    backbone = {"name": str(encoder), "adapter": "lora", "rank": 2}
    learner = OnlineLearner("classification", backbone, LoKO, ["bad", "good"])
    for text, label in (("good film", "good"), ("a bad plot", "bad")):
        learner.learn_one(text, label)
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    path = tmp_path / "deep" / "folder" / "state.ckpt"
    learner.save(path)
    return path


def test_it_is_predicted_with_and_exported(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LearnerService(open_state(state, tmp_path / "served")).close()
    (tmp_path / "config.yaml").write_text("a file: of something else")
    (tmp_path / "deep" / "config.yaml").write_text("a file: of something else")
    expected = OnlineLearner.load(state).predict_one("good film")
    for path in (state, tmp_path / "served" / SNAPSHOT):
        run_predict(["--ckpt_path", str(path), "--text", "good film"])
        assert f"prediction: {expected}" in capsys.readouterr().out
    run_export(["--ckpt_path", str(state), "--to", str(tmp_path / "out")])
    assert (tmp_path / "out" / "README.md").is_file()
    with pytest.raises(ValueError, match="the configuration in the checkpoint has no data; name one that has it"):
        restore(state).data()


def test_a_configuration_that_is_named_counts(state: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml is not there; name the run's config\.yaml by --config"):
        restore(state, tmp_path / "nowhere.yaml")


def test_a_checkpoint_of_a_run_that_was_moved_brings_its_configuration(state: Path, tmp_path: Path) -> None:
    files = AtomicCheckpointIO()
    checkpoint = files.load_checkpoint(state)
    live = checkpoint.pop("live")
    files.save_checkpoint(checkpoint, tmp_path / "moved.ckpt")
    assert live["classes"] == list(restore(tmp_path / "moved.ckpt").task.classes)
    del checkpoint["filtune"]["config"]["model"]["backbone"]
    files.save_checkpoint(checkpoint, tmp_path / "moved.ckpt")
    with pytest.raises(ValueError, match=r"the configuration in .*moved\.ckpt is not .*; it has no model\.backbone"):
        restore(tmp_path / "moved.ckpt")
