"""Runs that never ran: a backbone with trained weights drawn at random."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from filtune.datamodules import Task
from filtune.exports.restore import Restored, rebuild_backbone
from filtune.lightning_modules.backbones import BackboneConfig
from torch import nn

TEXTS = ["good film", "a bad plot and a dull actor", "the story"]


def text_task(classes: tuple[str, ...] = ("bad", "fair", "good")) -> Task:
    """Texts of some classes, or of a value where there are none."""
    kind: Any = "classification" if classes else "regression"
    return Task("reviews", kind, len(classes) or 1, classes, "text", None, ("accuracy",))


def image_task(shape: tuple[int, int, int] = (3, 8, 8)) -> Task:
    """Images of three classes."""
    return Task("pictures", "classification", 3, ("cat", "dog", "bird"), "image", shape, ("accuracy",))


def run_of(architecture: BackboneConfig, task: Task, folder: Path) -> Restored:
    """A run whose trained weights are random, far from where they started."""
    backbone = rebuild_backbone(architecture, task, seed=0)
    generator = torch.Generator().manual_seed(1)
    for param in backbone.parameters():
        if param.requires_grad:
            nn.init.normal_(param, std=0.3, generator=generator)
    config: dict[str, Any] = {"optimizer": {"class_path": "filtune.LoKO"}, "model": {}, "data": {}}
    return Restored(folder / "run" / "checkpoints" / "last.ckpt", config, {}, architecture, task, backbone)


def run_card(folder: Path) -> dict[str, Any]:
    """Run the code of an export's README.md, which may warn of nothing; what it printed is ``printed``."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        exec(code, names)
    return {**names, "printed": printed.getvalue()}


def logits_of(run: Restored, batch: dict[str, Any]) -> torch.Tensor:
    """What the run's own backbone says."""
    with torch.no_grad():
        return run.backbone(run.backbone.preprocess(batch))
