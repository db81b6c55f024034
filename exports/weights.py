"""A run's model on disk: as a PEFT adapter, or whole, as the library it came from keeps it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import peft
import timm
import torch
from filtune.lightning_modules.backbones import adapters
from filtune.lightning_modules.backbones.base import Backbone
from filtune.lightning_modules.backbones.image import ImageBackbone
from filtune.lightning_modules.backbones.text import MeanPooled, TextBackbone
from filtune.optimizers.likelihoods import likelihood_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from .pooled import MeanPooledConfig, MeanPooledForSequenceClassification
from .restore import Restored, rebuild_backbone

MeanPooledConfig.register_for_auto_class()  # the code is written beside the weights
MeanPooledForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

OTHER_SEED = 0x5EED
"""Not the run's: with it random weights are others, and those from a hub are the same."""


def write_adapter(run: Restored, folder: Path, final: Path, hub_id: str | None = None) -> str:
    """Write the adapter with the head, what reads the texts, and ``base/``.

    ``base/`` holds the configuration with the names of the classes, and the weights where none but the run has them.

    Args:
        run: The run.
        folder: Where to write.
        final: What the folder will be called.
        hub_id: The base model on the hub, where the run has it by another name.

    Returns:
        What the base weights are called: a hub id, a timm name or a folder.
    """
    plain = plain_backbone(run)
    base = library_model(plain, run)
    name = hub_id or base_name(run)
    own = _load_frozen(run, base)
    if own:
        name = str(final.resolve() / "base")
    adapter = run.backbone.model.peft_config["default"]
    adapter.base_model_name_or_path = name
    if isinstance(run.backbone, TextBackbone):
        adapter.task_type = peft.TaskType.SEQ_CLS
        save_tokenizer(run.backbone, folder)
        base.config.save_pretrained(folder / "base")
    run.backbone.model.save_pretrained(folder, save_embedding_layers=False)
    if own:
        _save(base, plain, run, folder / "base")
    return name


def write_model(run: Restored, folder: Path) -> None:
    """Write the whole model, the adapter merged into its weights.

    Raises:
        ValueError: If the adapter cannot be merged.
    """
    backbone = merged_backbone(run)
    if isinstance(backbone, TextBackbone):
        save_tokenizer(backbone, folder)
    _save(library_model(backbone, run), backbone, run, folder)


def merged_backbone(run: Restored, option: str = "--merge") -> Backbone:
    """Return the run's backbone, or where it has an adapter a copy in float32 with the adapter merged into its weights.

    Args:
        run: The run.
        option: The option that asks for it, for messages.

    Raises:
        ValueError: If the adapter cannot be merged.
    """
    if run.architecture.frozen == "4bit":
        raise ValueError(
            f"{option}: nothing can be merged into weights of four bits as exactly as it was; leave it out"
        )
    if not run.architecture.uses_peft:
        return run.backbone
    backbone = copy.deepcopy(run.backbone).float()
    try:
        backbone.model = backbone.model.merge_and_unload()
    except Exception as error:  # every method has errors of its own
        method = run.architecture.adapter
        raise ValueError(
            f"{option}: PEFT cannot merge {method} into the weights ({adapters.one_line(error)}); leave {option} out"
        ) from error
    return backbone


def read_adapter(run: Restored, folder: Path) -> Backbone:
    """Return the backbone with the adapter of a folder, on the base weights that its users will have."""
    plain, base = plain_backbone(run), folder / "base"
    if not isinstance(plain, TextBackbone):
        model = _read(plain.model, run, base) if base.is_dir() else plain.model
    else:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        name = base if any(base.glob("*.safetensors")) else base_name(run)
        if run.architecture.head == "mean":
            model = MeanPooledForSequenceClassification.from_encoder(name, config)
        else:
            load = AutoModelForSequenceClassification.from_pretrained
            model = load(name, config=config, ignore_mismatched_sizes=True, trust_remote_code=False)
    plain.model = peft.PeftModel.from_pretrained(model, folder)
    return plain.eval()


def read_model(run: Restored, folder: Path) -> Backbone:
    """Return the backbone with the model of a folder."""
    plain = plain_backbone(run)
    plain.model = _read(plain.model, run, folder)
    return plain.eval()


def plain_backbone(run: Restored) -> Backbone:
    """Return the backbone in float32 before the adapter and any training, with another seed than the run's."""
    return rebuild_backbone(
        dataclasses.replace(run.architecture, adapter=None, frozen="float32"), run.task, OTHER_SEED, run.own
    )


def base_name(run: Restored) -> str:
    """Return the name of the base weights: a hub id, a timm name with its tag, or the full path of a folder."""
    name, path = run.architecture.name, Path(run.architecture.name).expanduser()
    if isinstance(run.backbone, TextBackbone):
        return str(path.resolve()) if path.is_dir() else name
    if path.exists():
        return f"local-dir:{(path.parent if path.is_file() else path).resolve()}"
    weights = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return f"{weights.architecture}.{weights.tag}" if weights is not None and weights.tag else name


def save_tokenizer(backbone: TextBackbone, folder: Path) -> None:
    """Write the tokenizer, which cuts where the run did."""
    tokenizer = copy.deepcopy(backbone.tokenizer)
    tokenizer.model_max_length = backbone.max_length
    tokenizer.save_pretrained(folder)


def save_reader(backbone: Backbone, run: Restored, folder: Path) -> None:
    """Write what reads the texts, and the names of the classes, for a graph, whose weights need no configuration."""
    if not isinstance(backbone, TextBackbone):
        return
    save_tokenizer(backbone, folder)
    model = backbone.model
    config = copy.deepcopy(model.encoder.config if isinstance(model, MeanPooled) else model.config)
    for name, value in labels(run).items():
        setattr(config, name, value)
    config.save_pretrained(folder)


def library_model(backbone: Backbone, run: Restored) -> nn.Module:
    """Return the model as its library knows it, with the names of the classes."""
    model = backbone.model
    if not isinstance(backbone, TextBackbone):
        return model
    if isinstance(model, MeanPooled):
        inner = {name: value for name, value in model.encoder.config.to_dict().items() if name != "_name_or_path"}
        whole = MeanPooledForSequenceClassification(MeanPooledConfig(encoder=inner, **labels(run)), model.encoder)
        whole.head.load_state_dict(model.head.state_dict())
        model = whole.eval()
    for name, value in {**labels(run), "dtype": model.dtype}.items():
        setattr(model.config, name, value)
    return model


def labels(run: Restored) -> dict[str, Any]:
    """Return what transformers keeps of a task: ``num_labels`` or the names of the classes, and ``problem_type``."""
    problem = {"problem_type": likelihood_of(run.task.kind).problem_type}
    if not run.task.classes:
        return {"num_labels": run.task.outputs, **problem}
    names = dict(enumerate(run.task.classes))
    return {"id2label": names, "label2id": {name: label for label, name in names.items()}, **problem}


@torch.no_grad()
def _load_frozen(run: Restored, base: nn.Module) -> bool:
    """Copy the frozen weights of the run into the base; return whether they differed."""
    trained = {name for name, param in run.backbone.model.named_parameters() if param.requires_grad}
    own: dict[str, Tensor] = {}
    for name, tensor in run.backbone.model.state_dict().items():
        if name not in trained and ".original_module." not in name:
            own[name.removeprefix("base_model.model.").replace(".base_layer.", ".")] = tensor
    differ = False
    for name, tensor in base.state_dict().items():
        # of another shape are weights in four bits, which come from a hub
        if name in own and own[name].shape == tensor.shape and not torch.equal(own[name], tensor.to(own[name].dtype)):
            tensor.copy_(own[name])
            differ = True
    return differ


def _save(model: nn.Module, backbone: Backbone, run: Restored, folder: Path) -> None:
    if isinstance(backbone, TextBackbone):
        model.save_pretrained(folder)
        return
    if isinstance(backbone, ImageBackbone) and hasattr(model, "pretrained_cfg"):
        names = {"label_names": list(run.task.classes)} if run.task.classes else None
        timm.models.save_for_hf(model, str(folder), names, safe_serialization=True)
        return
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")


def _read(model: nn.Module, run: Restored, folder: Path) -> nn.Module:
    if isinstance(run.backbone, TextBackbone):
        return AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model
