"""Adapters: which modules a role means, and PEFT on them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn

from .base import Backbone
from .config import BackboneConfig

ROLES: dict[str, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin", "query_proj", "q"),
    "key": ("key", "k_proj", "k_lin", "key_proj", "k"),
    "value": ("value", "v_proj", "v_lin", "value_proj", "v"),
}
"""Names by which architectures call the parts of attention."""

FUSED = ("qkv", "Wqkv", "query_key_value", "c_attn")
"""Names of layers that are query, key and value in one; a role falls back on them."""


SCALED = {"lora": "lora_alpha", "dora": "lora_alpha", "loha": "alpha", "lokr": "alpha"}
"""Methods that are scaled by alpha / rank, with PEFT's name of alpha."""

WRONG_GRADIENTS = ("c3a",)
"""Methods whose backward pass in PEFT is not the derivative of their forward pass."""


def resolve_targets(model: nn.Module, targets: list[str], head: tuple[str, ...]) -> list[str]:
    """Full names of the modules that the roles or name endings in ``targets`` mean.

    Args:
        model: The model to be adapted.
        targets: Roles, or ends of module names.
        head: Names of the head's modules, which are never adapted.

    Raises:
        ValueError: If one of the targets matches nothing; the message lists what there is.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
        and not any(name == h or name.startswith(f"{h}.") for h in head)
    }
    resolved: list[str] = []
    for target in targets:
        found = _match(layers, target)
        if not found:
            endings = Counter(name.rpartition(".")[2] for name in layers)
            available = ", ".join(f"{name} ({count})" for name, count in endings.most_common(12))
            raise ValueError(
                f"model.backbone.targets: {target!r} matches no layer of this backbone; roles are "
                f"{', '.join([*ROLES, 'conv', 'linear'])}, layers here end in {available}"
            )
        resolved += [name for name in found if name not in resolved]
    return resolved


def _match(layers: dict[str, nn.Module], target: str) -> list[str]:
    if target == "conv":
        return [name for name, module in layers.items() if isinstance(module, (nn.Conv1d, nn.Conv2d))]
    if target == "linear":
        return [name for name, module in layers.items() if isinstance(module, nn.Linear)]
    endings = ROLES.get(target, (target,))
    found = [name for name in layers if any(name == end or name.endswith(f".{end}") for end in endings)]
    if not found and target in ROLES:
        found = [name for name in layers if name.rpartition(".")[2] in FUSED]
    return found


def adapt(backbone: Backbone, config: BackboneConfig) -> None:
    """Put the adapter on the backbone; only the adapter and the head stay trainable.

    Raises:
        ValueError: If the rank is not positive, a target matches nothing, PEFT does not know the method, or it cannot
            be put on these layers.
    """
    if config.adapter is None:
        return
    if config.rank < 1:
        raise ValueError(f"model.backbone.rank: must be at least 1, got {config.rank}")
    method = config.adapter.lower()
    configuration, tuner = _look_up(method)
    options = {field.name for field in dataclasses.fields(configuration) if field.init}
    if "target_modules" not in options:
        raise ValueError(
            f"model.backbone.adapter: {method} cannot be put on layers, it works on the whole model or its inputs; "
            "take one that adapts layers, such as lora"
        )
    if method in WRONG_GRADIENTS:
        raise ValueError(
            f"model.backbone.adapter: the backward pass of {method} in PEFT is wrong; take another, such as lora"
        )
    # AdaMSS does so on request only, AdaLoRA always
    if hasattr(tuner, "update_and_allocate") and config.adapter_args.get("use_asa", "use_asa" not in options):
        raise ValueError(
            f"model.backbone.adapter: {method} gives up ranks as it goes on, by gradients that a filter does not have; "
            "take one of fixed rank, such as lora"
        )
    targets = resolve_targets(backbone.model, config.targets, backbone.head)
    arguments: dict[str, Any] = {"target_modules": targets, **_arguments(method, config)}
    if "modules_to_save" in options:
        arguments["modules_to_save"] = list(backbone.head)
    try:
        adapted = peft.get_peft_model(backbone.model, configuration(**{**arguments, **config.adapter_args}))
    except Exception as error:  # every method has errors of its own
        raise ValueError(
            f"model.backbone.adapter: {method} cannot be put on layers with these targets and adapter_args "
            f"({one_line(error)})"
        ) from error
    if "modules_to_save" not in options:
        for name in backbone.head:
            adapted.get_base_model().get_submodule(name).requires_grad_(True)
    backbone.model = adapted


def _look_up(method: str) -> tuple[type[peft.PeftConfig], type | None]:
    """PEFT's configuration of a method, and what puts it on a model."""
    known = {str(kind.value).lower(): kind for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    known["dora"] = known["lora"]
    if method not in known:
        raise ValueError(f"model.backbone.adapter: unknown adapter {method!r}; known are {', '.join(sorted(known))}")
    return PEFT_TYPE_TO_CONFIG_MAPPING[known[method]], PEFT_TYPE_TO_TUNER_MAPPING.get(known[method])


def _arguments(method: str, config: BackboneConfig) -> dict[str, Any]:
    """What a method is told where ``adapter_args`` does not say otherwise."""
    if method == "ia3":
        return {"feedforward_modules": []}
    if method not in SCALED:
        return {}
    alpha = config.rank if config.alpha is None else config.alpha
    return {"r": config.rank, SCALED[method]: alpha, **({"use_dora": True} if method == "dora" else {})}


def one_line(error: Exception) -> str:
    """What an exception says, and its kind where that is no sentence."""
    said = " ".join(str(error).split())
    return said if " " in said else f"{type(error).__name__} {said}".strip()
