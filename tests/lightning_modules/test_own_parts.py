"""User-defined backbone, role and data module: one file each, found by name or by path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.datamodules import DigitsDataModule
from filtune.exports.restore import restore
from filtune.lightning_modules import BackboneConfig, OnlineModule, backbones, build_backbone
from filtune.lightning_modules.backbones.build import backbone_classes
from filtune.optimizers import LoKO

from filtune import datamodules
from tests.cli.harness import only_run, run
from tests.conftest import Task
from tests.lightning_modules.test_online import trainer

BACKBONE = '''
"""A dense network with attention's names."""

import torch
from torch import nn

from filtune.lightning_modules import Backbone


class Mixer(nn.Module):
    """A first layer that plays the query's part, and a head."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.w_first = nn.Linear(inputs, 16)
        self.head = nn.Linear(16, outputs)

    def forward(self, x):
        return self.head(torch.relu(self.w_first(x)))


class MyBackbone(Backbone):
    """The mixer on the pixels."""

    modality = "image"
    names = ("mixer",)
    roles = {"first": ("w_first",)}

    @classmethod
    def build(cls, config, task):
        channels, height, width = task.image_shape
        return cls(Mixer(channels * height * width, task.outputs), ("head",))

    def preprocess(self, batch):
        return batch["image"].to(self.device).flatten(1).float() / 255


class NotOne:
    """No backbone."""
'''
DATA = '''
"""Ten classes of small random images."""

import numpy as np
import torch

from filtune.datamodules.base import StreamDataModule
from filtune.datamodules.samples import Samples, Subset
from filtune.datamodules.task import Task


class NoiseDataModule(StreamDataModule):
    """Images of noise.

    Args:
        level: Brightness.
        **kwargs: The arguments of every stream.
    """

    modality = "image"

    def __init__(self, level: int = 9, **kwargs) -> None:
        super().__init__(**kwargs)
        self.level = level

    @property
    def label(self):
        return "noise"

    def prepare(self):
        images = torch.full((40, 1, 4, 4), self.level, dtype=torch.uint8)
        samples = Samples("image", images.__getitem__, torch.arange(40) % 10)
        return Subset(samples, np.arange(30)), Subset(samples, np.arange(30, 40))

    def describe(self, train):
        return Task("noise", "classification", 10, tuple("0123456789"), "image", (1, 4, 4), ("accuracy",))
'''
IMAGES = Task(modality="image", image_shape=(1, 8, 8), outputs=10)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with both files, on the path of modules here and in the processes that are started."""
    (tmp_path / "my_backbone_module.py").write_text(BACKBONE)
    (tmp_path / "my_data_module.py").write_text(DATA)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_backbone_module", "my_data_module"):
        sys.modules.pop(name, None)


def test_a_backbone_outside_the_package_is_named_by_its_path(own_folder: Path) -> None:
    config = BackboneConfig("my_backbone_module.MyBackbone", adapter="lora", rank=2, targets=["first"])
    module = OnlineModule(config, LoKO)
    fit = trainer(own_folder)
    fit.fit(module, datamodule=DigitsDataModule(max_samples=6, max_val_samples=10))
    assert fit.global_step == 6
    trained = [name for name, param in module.backbone.named_parameters() if param.requires_grad]
    assert sum("w_first.lora" in name for name in trained) == 2


def test_a_backbone_in_the_folder_is_found_by_its_name(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is looked through; what is imported is one more file of it."""
    (own_folder / "mixer.py").write_text(BACKBONE.replace("from filtune.lightning_modules import", "from .base import"))
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(own_folder)])
    for stray in own_folder.glob("my_*.py"):
        stray.unlink()
    backbone_classes.cache_clear()
    try:
        backbone = build_backbone(BackboneConfig("mixer", adapter="lora", targets=["first"]), IMAGES)
        assert type(backbone).__name__ == "MyBackbone"
        assert type(build_backbone(BackboneConfig(), IMAGES)).__name__ == "LeNet5Backbone"
    finally:
        backbone_classes.cache_clear()
        sys.modules.pop("filtune.lightning_modules.backbones.mixer", None)


def test_a_data_module_in_the_folder_is_found_by_its_name(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "my_backbone_module.py").unlink()
    monkeypatch.setattr(datamodules, "__path__", [*datamodules.__path__, str(own_folder)])
    found = datamodules.data_modules()
    assert {"DigitsDataModule", "TextDataModule", "NoiseDataModule"} <= set(found)
    module = OnlineModule(BackboneConfig(), LoKO)
    trainer(own_folder).fit(module, datamodule=found["NoiseDataModule"](max_samples=4))
    assert int(module.online.samples) == 4
    sys.modules.pop("filtune.datamodules.my_data_module")


@pytest.mark.parametrize(
    ("config", "culprit"),
    [
        (BackboneConfig("my_backbone_module.Missing"), "my_backbone_module.Missing cannot be imported"),
        (BackboneConfig("no_such_module.MyBackbone"), "no_such_module.MyBackbone cannot be imported"),
        (BackboneConfig("my_backbone_module.NotOne"), "NotOne is not a subclass of filtune.Backbone"),
        (BackboneConfig("mixer", library="builtin"), "no built-in backbone 'mixer'; built in is lenet5"),
        (BackboneConfig("mixer", library="keras"), "no 'keras'; choose one of auto, builtin, timm, transformers"),
        (BackboneConfig("my_backbone_module.MyBackbone", adapter="lora", targets=["last"]), "roles are query, key"),
    ],
)
def test_mistakes_are_named_in_one_line(config: BackboneConfig, culprit: str, own_folder: Path) -> None:
    with pytest.raises(ValueError, match=culprit) as caught:
        build_backbone(config, IMAGES)
    assert "\n" not in str(caught.value)


def test_a_backbone_of_the_wrong_input_is_refused(own_folder: Path) -> None:
    with pytest.raises(ValueError, match="takes images, but the task toy has texts"):
        build_backbone(BackboneConfig("my_backbone_module.MyBackbone"), Task())


def test_both_on_the_command_line(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "mine.yaml").write_text(
        "model:\n  backbone: {name: my_backbone_module.MyBackbone, adapter: lora, rank: 2, targets: [first]}\n"
        "data:\n  class_path: my_data_module.NoiseDataModule\n  init_args: {level: 7}\n"
    )
    monkeypatch.chdir(own_folder)
    arguments = ["--config=trainer/cpu", "--config=mine.yaml", "--config=optimizer/sgd", "--data.max_samples=5"]
    code, text = run(["fit", *arguments, "--trainer.enable_progress_bar=false"], own_folder)
    assert code == 0, text
    folder = only_run(own_folder)
    assert folder.parents[1].name.startswith("noise-my_backbone_module.MyBackbone")
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    own = ["--own_class", "my_backbone_module.MyBackbone"]
    for target, options in (("adapter", []), ("whole", ["--merge"])):
        code, text = run(["export", "--ckpt_path", checkpoint, "--to", target, *own, *options], own_folder)
        assert code == 0, text
        page = (own_folder / target / "README.md").read_text()
        loaded: dict[str, Any] = {}
        exec(page.partition("```python\n")[2].partition("```")[0], loaded)
        images = {"image": torch.ones(2, 1, 4, 4, dtype=torch.uint8)}
        backbone = restore(Path(checkpoint), own=own[1:]).backbone
        torch.testing.assert_close(
            loaded["backbone"](backbone.preprocess(images)), backbone(backbone.preprocess(images))
        )
