"""A finished run, which a test makes that of a stranger, and a module that leaves a mark when imported or called."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from filtune.arguments import CommandLine, read_line
from filtune.cli import main
from filtune.explain import Schema, check
from filtune.named_classes import own_classes, restricted
from filtune.training import schema_of

EVIL = '''
import lightning.pytorch as pl
import torch
from filtune.lightning_modules import Backbone
from filtune.datamodules import DigitsDataModule
from filtune.optimizers import SGD

MARK = {mark!r}


def act(*_, **__):
    open(MARK, "a").write("called ")


open(MARK, "a").write("imported ")


class Rule(SGD):
    """An optimizer that is one."""

    def __init__(self, *args, **kwargs):
        act()
        super().__init__(*args, **kwargs)


class Digits(DigitsDataModule):
    """A data module that is one."""

    def __init__(self, *args, **kwargs):
        act()
        super().__init__(*args, **kwargs)


class Watcher(pl.Callback):
    """A callback that is one."""

    setup = act


class Net(Backbone):
    """A backbone that is one."""

    modality = "image"

    @classmethod
    def build(cls, config, task):
        act()
        from filtune.lightning_modules.backbones.lenet import LeNet5Backbone
        return LeNet5Backbone.build(config, task)


class Plain:
    """A class of no kind that may be named."""

    def __init__(self, *args, **kwargs):
        act()
'''


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of LoKO on a few digits."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("finished")
    with contextlib.redirect_stdout(io.StringIO()):
        main(["fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=loko",
              "--data.max_samples=6", "--data.max_val_samples=6", f"--run.root={root}",
              "--trainer.enable_progress_bar=false"])  # fmt: skip
    (config,) = root.rglob("config.yaml")
    return config.parent


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that exists as soon as the evil module has been imported or called."""
    return tmp_path / "mark"


@pytest.fixture
def evil(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an evil module that can be imported; the test fails if it is."""
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil_module.py").write_text(EVIL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(folder)
    yield "evil_module"
    sys.modules.pop("evil_module", None)
    assert not mark.exists(), f"the module was {mark.read_text()}"


class Stranger:
    """A run's folder that may be changed.

    Args:
        folder: A copy of a finished run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config_path = folder, folder / "config.yaml"
        self.checkpoint = folder / "checkpoints" / "last.ckpt"
        self.config: dict[str, Any] = yaml.safe_load(self.config_path.read_text())

    def write(self) -> None:
        """Write the configuration as it is now."""
        self.config_path.write_text(yaml.safe_dump(self.config))

    def change_checkpoint(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Write the checkpoint with a change, in the format of earlier releases, which has no checksum."""
        content = torch.load(self.checkpoint, weights_only=True)
        content.pop("filtune_contents", None)
        content["filtune"].pop("format", None)
        change(content)
        torch.save(content, self.checkpoint)

    def commands(self) -> dict[str, list[str]]:
        """Return the commands that read the folder, and what they are given."""
        table = self.folder / "new.csv"
        table.write_text("image\nx.png\n")
        ckpt, config = f"--ckpt_path={self.checkpoint}", f"--config={self.config_path}"
        return {
            "predict": ["predict", ckpt, f"--input={table}"],
            "export": ["export", ckpt, f"--to={self.folder / 'out'}"],
            "validate": ["validate", config, ckpt, "--trainer.enable_progress_bar=false"],
        }


@pytest.fixture
def stranger(finished: Path, tmp_path: Path) -> Stranger:
    """A copy of the finished run."""
    shutil.copytree(finished, tmp_path / "run" / "version_0")
    return Stranger(tmp_path / "run" / "version_0")


@pytest.fixture(scope="session")
def schema() -> Schema:
    """The options of ``validate``."""
    return schema_of("validate")


@pytest.fixture
def checked(schema: Schema) -> Callable[[Stranger], CommandLine]:
    """What ``validate`` does with a run's folder before its parser reads what is left."""

    def check_line(stranger: Stranger, *options: str) -> CommandLine:
        own, rest = own_classes("validate", [*stranger.commands()["validate"][1:], *options])
        line = read_line(rest, own)
        check(line, schema)
        return restricted(line, schema)

    return check_line


Refused = Callable[..., str]
