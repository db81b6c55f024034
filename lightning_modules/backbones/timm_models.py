"""timm's image models, by name, from a local folder in timm's hub layout, or from a file of weights in one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import timm
import torch
from filtune.datamodules import Task
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import Self

from .base import BackboneConfig, check_weights_available
from .errors import REMEDY, BackboneError, damaged_file, one_line
from .image import ImageBackbone

ORIGIN = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
"""Entries of a ``pretrained_cfg`` by which timm loads weights from elsewhere; those of a folder are its own."""

ELSEWHERE = {"checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
"""Arguments of a model that a folder's ``model_args`` may not have, for the same reason."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights in timm's hub layout, the safe one first."""


class TimmBackbone(ImageBackbone):
    """A timm model, with a fresh head of m outputs unless its weights come with one of that size.

    BatchNorm stays as it was pre-trained: the model is in eval mode while it learns, and with an adapter the scales
    and shifts are frozen.
    """

    library = "timm"
    load_code = """\
import timm
import torch

model = timm.create_model({name!r}, num_classes={outputs}, checkpoint_path={file!r}).eval()
"""

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Return true, because ``build`` names the similar ones where timm has none of that name."""
        return True

    @classmethod
    def hub_id(cls, config: BackboneConfig) -> str | None:
        """Return the hub id of timm's weights; None of random ones, a local folder, and a name timm does not know.

        Raises:
            ValueError: If timm has no weights of this name.
        """
        if not config.pretrained or not timm.is_model(config.name):  # of an unknown name, ``build`` gives the error
            return None
        weights = timm.get_pretrained_cfg(config.name)
        if weights is None or not weights.hf_hub_id:
            raise ValueError("timm has no such weights")
        return weights.hf_hub_id

    @classmethod
    def build(cls, config: BackboneConfig, task: Task) -> Self:
        """Return the model with the preprocessing its weights were trained with.

        Raises:
            ValueError: If timm does not know the name, or the weights are not available or of another model.
        """
        folder = Path(os.path.expanduser(config.name))
        is_local = os.path.exists(folder) or config.name.startswith((".", "/", "~"))
        model = _from_folder(folder, config, task.outputs) if is_local else _by_name(config, task.outputs)
        settings = timm.data.resolve_data_config({}, model=model)
        channels, size, _ = settings["input_size"]
        head = model.default_cfg["classifier"]
        names = (head,) if isinstance(head, str) else tuple(head)
        kind = "bilinear" if settings["interpolation"] == "bilinear" else "bicubic"
        size = config.image_size or size
        backbone = cls(model, names, size, channels, settings["mean"], settings["std"], interpolation=kind)
        backbone.is_pretrained = config.pretrained
        backbone.has_fresh_head = not config.pretrained or model.default_cfg["num_classes"] != task.outputs
        return backbone


def _check_card(card: dict[str, Any]) -> None:
    """Check the size and the normalisation of the images, which a folder's ``pretrained_cfg`` may set to anything.

    Raises:
        ValueError: If one is not what images can have.
    """
    size = card.get("input_size", (3, 1, 1))
    if not (isinstance(size, list | tuple) and len(size) == 3 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError(f"input_size must be three positive integers (channels, height, width), got {size!r}")
    for name, least in (("mean", 0.0), ("std", 1e-6)):
        value = card.get(name, (0.5,))
        numbers = isinstance(value, list | tuple) and all(type(each) in (int, float) for each in value)
        if not numbers or len(value) not in (1, size[0]) or not all(least <= each <= 1 for each in value):
            raise ValueError(f"{name} must be a number in {least:g}..1 for each of {size[0]} channels, got {value!r}")


def _by_name(config: BackboneConfig, outputs: int) -> nn.Module:
    """Return a model that timm has, its weights from the hub where they are asked for."""
    if not timm.is_model(config.name):
        close = ", ".join(timm.list_models(f"*{config.name.split('.')[0][:6]}*")[:8]) or "see timm.list_models()"
        raise BackboneError(
            f"model.backbone.name: timm has no model {config.name!r}, and there is no such folder; similar: {close}"
        )
    weights = timm.get_pretrained_cfg(config.name)
    if config.pretrained and weights is not None and weights.hf_hub_id:
        remedy = "without a network name a local folder, or set --model.backbone.pretrained false for random weights"
        check_weights_available(weights.hf_hub_id, remedy)
    fixed = weights is not None and weights.fixed_input_size
    try:
        return timm.create_model(
            config.name, pretrained=config.pretrained, num_classes=outputs, **_size_options(config, fixed)
        )
    except (OSError, RuntimeError) as error:
        raise BackboneError(
            f"model.backbone.name: the weights of {config.name} cannot be had ({str(error).splitlines()[0]}); "
            "with a network they are downloaded, without one set --model.backbone.pretrained false"
        ) from error


def _from_folder(path: Path, config: BackboneConfig, outputs: int) -> nn.Module:
    """Return the model of a folder that holds timm's ``config.json`` and weights, or of a file of weights in it."""
    folder = path.parent if path.is_file() else path
    settings = _read_settings(folder, path)
    usual = timm.get_pretrained_cfg(settings["architecture"])  # which layer is the classifier, and what images are
    known = {**({} if usual is None else usual.to_dict()), **_object(settings, "pretrained_cfg", path)}
    card = {name: value for name, value in known.items() if name not in ORIGIN}
    _check_card(card)
    card |= {"num_classes": settings["num_classes"]} if "num_classes" in settings else {}
    if config.pretrained:
        card["state_dict"] = _read_weights(path if path.is_file() else _find_weights(folder))
    arguments = _object(settings, "model_args", path)
    if foreign := sorted(ELSEWHERE & arguments.keys()):
        raise BackboneError(
            f"model.backbone.name: {str(path)!r}: config.json has {foreign[0]} in model_args, which may name another "
            "file; remove it"
        )
    options = {**arguments, "num_classes": outputs}
    options |= _size_options(config, bool(card.get("fixed_input_size")))
    try:
        model = timm.create_model(settings["architecture"], config.pretrained, pretrained_cfg=card, **options)
    except Exception as error:  # by the architecture, and by what is wrong
        reason = one_line(error)[:200]
        raise BackboneError(
            f"model.backbone.name: {str(path)!r} does not fit the architecture {settings['architecture']} of its "
            f"config.json ({reason}); {REMEDY}"
        ) from error
    for settings_of_model in (model.pretrained_cfg, model.default_cfg):
        settings_of_model.pop("state_dict", None)  # they are in the model now
    return model


def _object(settings: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Return an entry of ``config.json`` that is an object; an empty one where there is none.

    Raises:
        BackboneError: If it is anything else.
    """
    value = settings.get(name) or {}
    if not isinstance(value, dict):
        raise BackboneError(
            f"model.backbone.name: {str(path)!r}: {name} of its config.json must be an object, not a "
            f"{type(value).__name__}; correct it, or copy the file again"
        )
    return value


def _size_options(config: BackboneConfig, fixed: bool) -> dict[str, Any]:
    """Return the side of the image as an argument of models that are built for one size, like transformers."""
    return {"img_size": config.image_size} if fixed and config.image_size is not None else {}


def _read_settings(folder: Path, path: Path) -> dict[str, Any]:
    """Return ``config.json``, with the name of the architecture.

    Raises:
        ValueError: If it is missing, damaged, or not of a model that timm has.
    """
    said = f"model.backbone.name: {str(path)!r}"
    layout = "it needs config.json with the architecture's name, and model.safetensors, as timm's hub has them"
    if not folder.is_dir():
        raise BackboneError(f"{said} is not there; name a folder, a timm model or a hub id")
    file = folder / "config.json"
    if not file.is_file():
        raise BackboneError(f"{said} has no config.json; {layout}")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        name = settings["architecture"]
    except (ValueError, KeyError, TypeError) as error:
        cause = damaged_file(folder) or "config.json is not timm's"
        raise BackboneError(f"{said}: {cause}; {layout}") from error
    if not isinstance(name, str) or not timm.is_model(name):
        raise BackboneError(
            f"{said}: config.json names the architecture {name!r}, which timm {timm.__version__} lacks; {REMEDY}"
        )
    return settings


def _find_weights(folder: Path) -> Path:
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise BackboneError(
            f"model.backbone.name: {str(folder)!r} has no {' or '.join(WEIGHTS)}; set --model.backbone.pretrained "
            "false for random weights"
        )
    return found[0]


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file in float32; nothing in a pickle but tensors is loaded.

    Raises:
        ValueError: If the file is damaged, or holds something else.
    """
    try:
        read = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # of many kinds, by what is damaged
        raise BackboneError(
            f"model.backbone.name: {str(path)!r} is damaged, or not a file of weights; copy it again"
        ) from error
    state = read.get("state_dict", read) if isinstance(read, dict) else read
    if not (isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise BackboneError(f"model.backbone.name: {str(path)!r} holds no weights of a model; {REMEDY}")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
