"""Data sets of a few generated rows in the schemas that the hub has, and tiny random models in place of large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import ClassLabel, Dataset, Features, Image, Value
from filtune.experiments.composition import Config, lookup
from PIL import Image as Picture

from tests.conftest import WORDS

ROWS = 24

GLUE = {
    "sst2": (["sentence"], 2),
    "cola": (["sentence"], 2),
    "mrpc": (["sentence1", "sentence2"], 2),
    "qqp": (["question1", "question2"], 2),
    "qnli": (["question", "sentence"], 2),
    "rte": (["sentence1", "sentence2"], 2),
    "stsb": (["sentence1", "sentence2"], None),
    "mnli": (["premise", "hypothesis"], 3),
}
"""Columns of texts and number of classes; none for values."""

IMAGES = {
    "ylecun/mnist": ("image", "label", 10, ("train", "test"), (28, 28), "L"),
    "uoft-cs/cifar10": ("img", "label", 10, ("train", "test"), (32, 32), "RGB"),
    "uoft-cs/cifar100": ("img", "fine_label", 100, ("train", "test"), (32, 32), "RGB"),
    "clane9/imagenet-100": ("image", "label", 100, ("train", "validation"), (40, 30), "RGB"),
    "timm/oxford-iiit-pet": ("image", "label", 37, ("train", "test"), (30, 40), "RGB"),
    "ethz/food101": ("image", "label", 101, ("train", "validation"), (40, 40), "RGB"),
}
"""Columns, classes, splits, size and mode of the images."""

TINY = {
    "densenet121": {"model.backbone.image_size": 32},
    "resnet18": {"model.backbone.image_size": 32},
    "resnet50": {"model.backbone.name": "resnet26", "model.backbone.image_size": 32},
    "vit_base": {"model.backbone.name": "test_vit"},
    "vit_base_dinov2": {"model.backbone.name": "test_vit", "model.backbone.image_size": None},
    "vit_large": {"model.backbone.name": "test_vit", "model.backbone.image_size": None},
}
"""What stands in for timm's models: as they are on small images, or small ones of the same kind."""


def write_glue(folder: Path) -> Path:
    """All of GLUE's tasks; labels of test splits are -1, as the hub has them."""
    rng = np.random.default_rng(0)
    configs = []
    for name, (columns, classes) in GLUE.items():
        splits = ("train", "validation", "test")
        if name == "mnli":
            splits = ("train", "validation_matched", "validation_mismatched", "test_matched")
        label = Value("float32") if classes is None else ClassLabel(names=[f"class {k}" for k in range(classes)])
        features = Features({**{c: Value("string") for c in columns}, "label": label, "idx": Value("int32")})
        for split in splits:
            labels: list[Any] = [k % classes for k in range(ROWS)] if classes else rng.uniform(0, 5, ROWS).tolist()
            if split.startswith("test"):
                labels = [-1] * ROWS
            texts = {c: [" ".join(rng.choice(WORDS, 6)) for _ in range(ROWS)] for c in columns}
            rows = Dataset.from_dict({**texts, "label": labels, "idx": list(range(ROWS))}, features=features)
            _write(rows, folder / name, split)
        configs.append({"config_name": name, "data_files": _files(name, splits)})
    _card(folder, configs)
    return folder


def write_images(folder: Path, source: str) -> Path:
    """A data set of images."""
    image, label, classes, splits, size, mode = IMAGES[source]
    rng = np.random.default_rng(0)
    features = {image: Image(), label: ClassLabel(num_classes=classes)}
    if source == "uoft-cs/cifar100":
        features["coarse_label"] = ClassLabel(num_classes=20)
    name = {"ylecun/mnist": "mnist", "uoft-cs/cifar10": "plain_text", "uoft-cs/cifar100": "cifar100"}.get(
        source, "default"
    )
    for split in splits:
        shape = size[::-1] if mode == "L" else (*size[::-1], 3)
        pictures = [Picture.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(ROWS)]
        columns: dict[str, list[Any]] = {image: pictures, label: [k % classes for k in range(ROWS)]}
        if "coarse_label" in features:
            columns["coarse_label"] = [k % 20 for k in range(ROWS)]
        _write(Dataset.from_dict(columns, features=Features(features)), folder / name, split)
    _card(folder, [{"config_name": name, "data_files": _files(name, splits)}])
    return folder


def shrink(config: Config, backbone: str) -> dict[str, Any]:
    """Options by which a cell is run for five steps on a tiny model."""
    batch = min(lookup(config, "data.batch_size") or 1, 2)
    options = {
        "data.batch_size": batch,
        "data.max_samples": 5 * batch,
        "data.max_val_samples": 4,
        "data.num_workers": 0 if lookup(config, "data.num_workers") else None,
        "trainer.max_epochs": 1,
        "trainer.log_every_n_steps": 2,
        "trainer.accelerator": "cpu",
        "model.schedule.warmup": min(lookup(config, "model.schedule.warmup", 0), 2),
    }
    if backbone in TINY:
        options |= {"model.backbone.pretrained": False, **TINY[backbone]}
    return {key: value for key, value in options.items() if value is not None or key == "model.backbone.image_size"}


def _write(rows: Dataset, folder: Path, split: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def _files(name: str, splits: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"split": split, "path": f"{name}/{split}-*"} for split in splits]


def _card(folder: Path, configs: list[dict[str, Any]]) -> None:
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
