"""A backbone from its configuration and the task."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from .adapters import adapt
from .base import Backbone
from .config import BackboneConfig
from .image import build_lenet, build_timm
from .memory import check_memory_options, checkpoint_layers, shrink_frozen
from .text import build_transformer
from .trial import try_adapter


class Task(Protocol):
    """What a data module says about its task, as far as a model needs to know."""

    name: str
    kind: str
    outputs: int
    modality: str
    image_shape: tuple[int, int, int] | None
    metrics: tuple[str, ...]


def build_backbone(config: BackboneConfig, task: Task) -> Backbone:
    """Build the backbone for a task, with its adapter, in eval mode.

    Raises:
        ValueError: If the backbone cannot be built, or does not take what the task offers.
    """
    library = config.library
    if library == "auto":
        automatic = "transformers" if task.modality == "text" else "timm"
        library = "builtin" if config.name == "lenet5" else automatic
    if (library == "transformers") != (task.modality == "text"):
        raise ValueError(
            f"model.backbone.name: {config.name!r} takes {'texts' if library == 'transformers' else 'images'}, "
            f"but the task {task.name} has {task.modality}s; choose another configs/backbone"
        )
    check_memory_options(config, library)
    backbone: Backbone
    if library == "transformers":
        backbone = build_transformer(config, task.outputs)
    elif library == "timm":
        backbone = build_timm(config, task.outputs)
    elif config.name == "lenet5" and task.image_shape is not None:
        backbone = build_lenet(config, task.outputs, task.image_shape)
    else:
        raise ValueError(f"model.backbone.name: there is no built-in backbone {config.name!r}; built in is lenet5")
    adapt(backbone, config)
    shrink_frozen(backbone, config)
    if config.gradient_checkpointing:
        checkpoint_layers(backbone)
    backbone.eval()
    if config.adapter is not None:
        try_adapter(backbone, config, _sample(task))
    return backbone


def _sample(task: Task) -> dict[str, Any]:
    if task.modality == "text":
        return {"text": ["a"]}
    return {"image": torch.zeros(1, *(task.image_shape or (3, 32, 32)), dtype=torch.uint8)}
