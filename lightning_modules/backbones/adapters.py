"""Adapters: which modules a role means, and PEFT on them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from lightning_modules.backbones.base import Backbone
from lightning_modules.backbones.config import BackboneConfig

ROLES: dict[str, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin", "query_proj", "q"),
    "key": ("key", "k_proj", "k_lin", "key_proj", "k"),
    "value": ("value", "v_proj", "v_lin", "value_proj", "v"),
}
"""Names by which architectures call the parts of attention."""

FUSED = ("qkv", "Wqkv", "query_key_value", "c_attn")
"""Names of layers that are query, key and value in one; a role falls back on them."""


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
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d, nn.Embedding))
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
        ValueError: If the rank is not positive, a target matches nothing, or PEFT does not know the method or its
            arguments.
    """
    if config.adapter is None:
        return
    if config.rank < 1:
        raise ValueError(f"model.backbone.rank: must be at least 1, got {config.rank}")
    arguments: dict[str, Any] = {
        "target_modules": resolve_targets(backbone.model, config.targets, backbone.head),
        "modules_to_save": list(backbone.head),
        **config.adapter_args,
    }
    method = config.adapter.lower()
    if method in ("lora", "dora"):
        alpha = config.rank if config.alpha is None else config.alpha
        peft_config = peft.LoraConfig(r=config.rank, lora_alpha=alpha, use_dora=method == "dora", **arguments)
    else:
        known = {str(kind.value).lower(): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        if method not in known:
            raise ValueError(
                f"model.backbone.adapter: unknown adapter {config.adapter!r}; known are dora, {', '.join(known)}"
            )
        try:
            peft_config = known[method](**arguments)
        except TypeError as error:
            raise ValueError(
                f"model.backbone.adapter: {config.adapter} cannot be put on layers with these adapter_args ({error})"
            ) from error
    backbone.model = peft.get_peft_model(backbone.model, peft_config)
