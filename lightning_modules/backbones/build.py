"""A backbone from its options and the task: which class it is, its adapter, and how its weights are stored."""

from __future__ import annotations

import os
import pkgutil
import re
from functools import cache
from importlib import import_module
from typing import Any

import torch
from filtune.datamodules import Task
from torch import nn

from ..trust import OwnClasses, check_own
from .adapters import adapt, try_adapter
from .base import Backbone, BackboneConfig
from .errors import library_errors, one_line
from .folders import refuse_special_files
from .memory import check_memory_options, checkpoint_layers, shrink_frozen
from .weight_init import initialize_weights

RUN_REMEDY = "name another model or another --model.backbone.image_size, or correct its configuration or weights"

CLASS_PATH = re.compile(r"([A-Za-z_]\w*\.)+[A-Z]\w*")
"""A dotted path whose last part is capitalised; timm's tags are not, and the hub's ids have a slash."""


@cache
def backbone_classes() -> tuple[type[Backbone], ...]:
    """Return the subclasses of :class:`Backbone` that the files of this folder define and that can be built."""
    folder = import_module(__name__.rpartition(".")[0])
    modules = [import_module(f"{folder.__name__}.{info.name}") for info in pkgutil.iter_modules(folder.__path__)]
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Backbone)
        and value.__module__ == module.__name__
        and value.build.__func__ is not Backbone.build.__func__  # type: ignore[attr-defined]
    )


def find_backbone(config: BackboneConfig, task: Task, own: OwnClasses = None) -> type[Backbone]:
    """Return the class that takes this name, for a task.

    Raises:
        ValueError: If no class takes the name, or the one that does is of another modality than the task.
    """
    found = backbone_of(config, task.modality, own)
    if found.modality != task.modality:
        raise ValueError(
            f"model.backbone.name: {config.name!r} takes {found.modality}s, but the task {task.name} has "
            f"{task.modality}s; choose another configs/backbone"
        )
    return found


def backbone_of(config: BackboneConfig, modality: str | None, own: OwnClasses = None) -> type[Backbone]:
    """Return the class that takes this name: one of the user's own by its dotted path, else one of this folder.

    Args:
        config: The options; ``name`` and ``library`` count.
        modality: The task's input, by which one of several libraries is chosen; None where it is not known.
        own: Classes outside this folder that may be imported; by default any.

    Raises:
        ValueError: If no class takes the name, or it may not be imported.
    """
    found = import_backbone(config.name, own) if config.library == "auto" else None
    if found is None:
        known = [cls for cls in backbone_classes() if config.library in ("auto", cls.library)]
        if not known:
            libraries = ", ".join(["auto", *sorted({cls.library for cls in backbone_classes()})])
            raise ValueError(f"model.backbone.library: there is no {config.library!r}; choose one of {libraries}")
        takers = [cls for cls in known if cls.accepts(config.name)]
        if not takers:
            names = ", ".join(name for cls in known for name in cls.names)
            raise ValueError(f"model.backbone.name: there is no built-in backbone {config.name!r}; built in is {names}")
        # a name of its own comes before a library that takes any, and of these the one for the task's input
        found = min(takers, key=lambda cls: (cls.library != "builtin", cls.modality != modality))
    return found


def import_backbone(path: str, own: OwnClasses = None) -> type[Backbone] | None:
    """Return the class of a dotted path such as ``my_module.MyBackbone``; None where the name is not such a path.

    Args:
        path: The path.
        own: Class paths that may be imported; by default any.

    Raises:
        ForeignClassError: If it may not be imported.
        ValueError: If it cannot be imported, or is not a backbone.
    """
    if not CLASS_PATH.fullmatch(path) or os.path.exists(path):
        return None
    check_own(path, "model.backbone.name", own)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        raise ValueError(
            f"model.backbone.name: {path} cannot be imported ({one_line(error)}); correct it, or put its folder on "
            "PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Backbone)):
        raise ValueError(f"model.backbone.name: {path} is not a subclass of filtune.Backbone")
    return found


def build_backbone(config: BackboneConfig, task: Task, own: OwnClasses = None) -> Backbone:
    """Return the backbone for a task, with its adapter, in eval mode.

    Args:
        config: Its options.
        task: The task.
        own: Classes outside this folder that may be imported; by default any, as a user's configuration may name them.

    Raises:
        ValueError: If the backbone cannot be built, or does not take the task's input.
    """
    found = find_backbone(config, task, own)
    check_memory_options(config, found.library)
    if found.library == "builtin":  # a user's own, too: its errors are not those of a folder
        backbone = found.build(config, task)
    else:
        refuse_special_files(config.name)
        with library_errors(config.name):
            backbone = found.build(config, task).eval()
        if config.frozen != "4bit":  # which runs when the trained layers are wrapped
            with library_errors(config.name, "it does not run on this task's data", RUN_REMEDY):
                _try_model(backbone, task)
    if config.weight_init != "library":
        if backbone.is_pretrained:
            raise ValueError(
                f"model.backbone.weight_init: {config.weight_init} would replace the pre-trained weights; leave it "
                "out, or set model.backbone.pretrained: false"
            )
        initialize_weights(backbone.model, config.weight_init)
    if backbone.has_fresh_head and starts_at_zero(config, backbone):
        done = zero_output_layer(backbone, task)
        if config.head_init == "zero" and not done:
            raise ValueError(
                f"model.backbone.head_init: the head of this backbone has no layer of {task.outputs} outputs that "
                "could start at zero; take random"
            )
    adapt(backbone, config)
    shrink_frozen(backbone, config)
    if config.gradient_checkpointing:
        checkpoint_layers(backbone)
    backbone.eval()
    if config.uses_peft:
        try_adapter(backbone, config, _example(task))
    return backbone


def starts_at_zero(config: BackboneConfig, backbone: Backbone) -> bool:
    """Return whether a fresh head starts at zero: by default on pre-trained weights."""
    return config.head_init == "zero" or (config.head_init == "auto" and backbone.is_pretrained)


def zero_output_layer(backbone: Backbone, task: Task) -> bool:
    """Set the last layer of the head to zero, so that all classes are equally probable before the first sample.

    Where several layers of the head have that many outputs, it is the one that is called last, and those before it
    until the outputs are zero: the outputs of a distilled network are the mean of two heads.

    Returns:
        Whether the head has a layer with that many outputs.
    """
    # the head proper comes first, further modules that are trained with it after it
    fitting = [
        [
            layer
            for layer in backbone.model.get_submodule(name).modules()
            if isinstance(weight := getattr(layer, "weight", None), torch.Tensor)
            and weight.dim() > 1
            and len(weight) == task.outputs
        ]
        for name in backbone.head
    ]
    layers = list(dict.fromkeys(layer for each in fitting for layer in each))
    if len(layers) > 1:
        layers = _output_layers(backbone, task, layers) or [next(filter(None, fitting))[-1]]
    for param in (param for layer in layers for param in layer.parameters(recurse=False)):
        torch.nn.init.zeros_(param)
    return bool(layers)


def _output_layers(backbone: Backbone, task: Task, layers: list[nn.Module]) -> list[nn.Module]:
    """Return those of several layers that must be zero for the outputs to be; none where the model does not tell.

    Their weights are as before afterwards.
    """
    calls: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda module, *_: calls.append(module)) for layer in layers]
    params = [param for layer in layers for param in layer.parameters(recurse=False)]
    before = [param.detach().clone() for param in params]
    try:
        with torch.no_grad():
            inputs = backbone.eval().preprocess(_example(task))  # batch statistics stay as they are
            backbone(inputs)
            order = list(dict.fromkeys(reversed(calls)))
            for count, layer in enumerate(order, start=1):
                for param in layer.parameters(recurse=False):
                    param.zero_()
                if not backbone(inputs).any():
                    return order[:count]
        return order[:1]
    except Exception:  # of a model that does not run here, such as one in four bits on a CPU
        return []
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for param, value in zip(params, before, strict=True):
                param.copy_(value)


def _try_model(backbone: Backbone, task: Task) -> None:
    """Check that the model runs on a sample of the task's kind, as it was loaded.

    Raises:
        ValueError: If its outputs are of another shape, or not finite.
    """
    with torch.no_grad():
        outputs = backbone(backbone.preprocess(_example(task)))
    if outputs.shape != (1, task.outputs):
        raise ValueError(f"its outputs are of the shape {tuple(outputs.shape)}, not (1, {task.outputs})")
    if not outputs.isfinite().all():
        raise ValueError("its outputs are not finite: a weight or a setting of its configuration is wrong")


def _example(task: Task) -> dict[str, Any]:
    """Return a batch of one sample of the task's input."""
    if task.modality == "text":
        return {"text": ["a"]}
    if task.modality == "table":
        return {"table": torch.zeros(1, task.features)}
    return {"image": torch.zeros(1, *(task.image_shape or (3, 32, 32)), dtype=torch.uint8)}
