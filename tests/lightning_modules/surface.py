"""docs/lightning.md read as a table, and a run with Lightning's trainer that takes a fraction of a second."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from filtune.datamodules import DigitsDataModule
from filtune.lightning_modules import BackboneConfig, OnlineModule
from lightning.pytorch import accelerators, callbacks, loggers, plugins, profilers, strategies

from filtune import SGD

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lightning.md"
STATUS = ("honoured", "refused", "ours")
SAMPLES = 6


def rows() -> dict[str, dict[str, str]]:
    """Status by name, of each section of the page."""
    found: dict[str, dict[str, str]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        pairs = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, flags=re.MULTILINE)
        if pairs:
            found[section.partition("\n")[0]] = dict(pairs)
            assert len(found[section.partition("\n")[0]]) == len(pairs), "a name has two rows"
    return found


def offered() -> dict[str, set[str]]:
    """What the installed version of Lightning offers, by the page's sections."""
    machines = {name for name in accelerators.__all__ if inspect.isclass(getattr(accelerators, name))}
    return {
        "Trainer": set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"},
        "Callbacks": set(callbacks.__all__),
        "Loggers": set(loggers.__all__),
        "Profilers": set(profilers.__all__),
        "Plugins": set(plugins.__all__),
        "Strategies and accelerators": {*strategies.__all__, *machines},
    }


class Probe(pl.Callback):
    """Counts what happens during a run, and notes the state of torch in it."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.losses: list[float] = []
        self.metrics: list[set[str]] = []

    def on_sanity_check_start(self, *_: Any) -> None:
        self.seen["sanity"] += 1

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.seen["batches"] += 1
        self.seen["anomaly"] += torch.is_anomaly_enabled()
        self.seen["deterministic"] += torch.are_deterministic_algorithms_enabled()
        self.seen["benchmark"] += torch.backends.cudnn.benchmark
        self.losses.append(float(outputs["loss"]))
        self.metrics.append(set(trainer.callback_metrics))

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen["val_batches"] += not trainer.sanity_checking
        self.seen["inference"] += torch.is_inference_mode_enabled()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen["validations"] += not trainer.sanity_checking


def module(optimizer: Any = SGD) -> OnlineModule:
    """LeNet-5, with an optimizer."""
    return OnlineModule(BackboneConfig(), optimizer)


def data(samples: int = SAMPLES) -> DigitsDataModule:
    """A few digits, and twice as many batches of validation as one."""
    return DigitsDataModule(max_samples=samples, max_val_samples=8, val_batch_size=4)


def run(folder: Path, optimizer: Any = SGD, probed: bool = True, **options: Any) -> tuple[pl.Trainer, Probe]:
    """Fit with options of the trainer, quietly; the trainer and what was seen."""
    probe = Probe()
    mine = options.pop("callbacks", None) or []
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    if options.get("barebones"):
        quiet = {}
    else:
        quiet |= {"logger": False, "enable_checkpointing": any(isinstance(c, callbacks.Checkpoint) for c in mine)}
    defaults = {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": folder}
    trainer = pl.Trainer(**{**defaults, **quiet, **options, "callbacks": [*mine, *([probe] if probed else [])]})
    trainer.fit(module(optimizer), datamodule=data())
    return trainer, probe
