"""Parts and files that a learner refuses, in one line, and classes from outside that it takes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.lightning_modules import Backbone, BackboneConfig, CheckpointError
from filtune.optimizers import SGD, LoKO

from filtune import OnlineLearner
from tests.live.learners import IMAGES, SMALL, learner, same


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": []}, "classes: a classification task needs the classes"),
        ({"classes": ["a"]}, "classes: there must be two at least"),
        ({"classes": ["1", 1]}, "classes: '1' is there twice"),
        ({"classes": "ab"}, "classes: a list is needed, or 'open'; got 'ab'"),
        ({"optimizer": "lokoo"}, "did you mean"),
        ({"optimizer": torch.optim.SGD}, "optimizer: a class of filtune's, or its name, is needed"),
        ({"optimizer": partial(LoKO, q=1)}, "optimizer: .*'q'; correct its options"),
        ({"backbone": {"name": "lenet5", "size": 3}}, "model.backbone: there is no option 'size'"),
        ({"task": "guess"}, "there is no task of the kind 'guess'"),
        ({"schedule": {"decay": "linear"}}, "model.schedule.decay: linear needs the length of the stream"),
        ({"precision": "16-mixed"}, "trainer.precision: a learner has no 16-mixed"),
        ({"new_classes": "maybe"}, "new_classes: must be 'refuse' or 'add', got 'maybe'"),
        ({"max_pending": -1}, "max_pending: must be a number of samples"),
        ({"columns": ["a", "b"]}, "columns: a list of at most 1 names is needed for images"),
    ],
)
def test_wrong_parts_are_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    given = {"backbone": SMALL, "classes": ["a", "b"], "image_shape": (1, 8, 8), **options}
    with pytest.raises(ValueError, match=words) as caught:
        OnlineLearner(**given)
    assert "\n" not in str(caught.value)


def test_a_file_of_a_stranger_imports_nothing(tmp_path: Path) -> None:
    one = learner(SGD)
    one.settings.config["optimizer"]["class_path"] = "os.path.join"
    one.save(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="os.path.join is not a class of filtune"):
        OnlineLearner.load(tmp_path / "a.ckpt")


def test_another_backbone_is_refused(tmp_path: Path, tiny_bert: Path) -> None:
    one = OnlineLearner("classification", {"name": str(tiny_bert), "adapter": "head"}, LoKO, ["no", "yes"])
    one.save(tmp_path / "a.ckpt")
    one.settings.config["seed_everything"] = 1
    one.settings.config["model"]["backbone"]["pretrained"] = False
    one.save(tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match="the frozen weights of .* are not those the checkpoint was trained on"):
        OnlineLearner.load(tmp_path / "b.ckpt")


def test_divergence_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from filtune.live import core

    monkeypatch.setattr(core, "CHECK_INTERVAL", 2)
    one = learner(partial(SGD, lr=1e30))
    one.learn_one(IMAGES[0], "a")
    with pytest.raises(FloatingPointError, match="step 2: .* non-finite"):
        one.learn_one(IMAGES[1], "a")


class OwnBackbone(Backbone):
    """A linear layer on the pixels."""

    modality = "image"

    @classmethod
    def build(cls, config: BackboneConfig, task: Any) -> OwnBackbone:
        return cls(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, task.outputs)), ("1",))

    def preprocess(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["image"].float() / 255


def test_a_backbone_of_ones_own(tmp_path: Path) -> None:
    path = f"{__name__}.OwnBackbone"
    one = OnlineLearner("classification", {"name": path, "pretrained": False}, LoKO, "open", image_shape=(1, 8, 8))
    for x, y in zip(IMAGES[:6], "abcabc", strict=True):
        one.learn_one(x, y)
    one.save(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="OwnBackbone is not a class of filtune"):
        OnlineLearner.load(tmp_path / "a.ckpt")
    assert same(one, OnlineLearner.load(tmp_path / "a.ckpt", own=[path]))
