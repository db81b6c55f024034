"""Adapters: which modules a role means, PEFT on them, and a trial that the result is what the optimizers need."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from torch import Tensor, nn

from .base import HEAD, Backbone, BackboneConfig
from .errors import one_line

ROLES: dict[str, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin", "query_proj", "q"),
    "key": ("key", "k_proj", "k_lin", "key_proj", "k"),
    "value": ("value", "v_proj", "v_lin", "value_proj", "v"),
}
"""Ends of the names of the modules that have a role; a backbone's own ``roles`` come before these."""

FUSED = ("qkv", "Wqkv", "query_key_value", "c_attn")
"""Names of layers that hold query, key and value in one; a role of attention falls back on them."""

SCALED = {"lora": "lora_alpha", "dora": "lora_alpha", "loha": "alpha", "lokr": "alpha"}
"""Methods that are scaled by alpha / rank, with PEFT's name of alpha."""

IMPORTING = ("megatron_config", "megatron_core", "auto_mapping")
"""Arguments by which PEFT imports a module that they name, which a run of a stranger's must not be able to."""

REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types of parameters that a Jacobian can be taken of."""

WRONG_GRADIENTS = ("c3a",)
"""Methods whose backward pass in PEFT is not the derivative of their forward pass."""


def resolve_targets(
    model: nn.Module, targets: list[str], head: tuple[str, ...], own_roles: dict[str, tuple[str, ...]] | None = None
) -> list[str]:
    """Return the full names of the modules that the roles or name endings in ``targets`` stand for.

    Args:
        model: The model to be adapted.
        targets: Roles, or ends of module names.
        head: Names of the head's modules, which are never adapted.
        own_roles: Roles of this architecture, beside or in place of :data:`ROLES`.

    Raises:
        ValueError: If one of the targets matches nothing; the message lists the available ones.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
        and not any(name == h or name.startswith(f"{h}.") for h in head)
    }
    roles = {**ROLES, **(own_roles or {})}
    resolved: list[str] = []
    for target in targets:
        found = _match(layers, target, roles)
        if not found:
            endings = Counter(name.rpartition(".")[2] for name in layers)
            available = ", ".join(f"{name} ({count})" for name, count in endings.most_common(12))
            raise ValueError(
                f"model.backbone.targets: {target!r} matches no layer of this backbone; roles are "
                f"{', '.join(dict.fromkeys([*roles, 'conv', 'pointwise', 'linear']))}, layers here end in {available}"
            )
        resolved += [name for name in found if name not in resolved]
    return resolved


def _match(layers: dict[str, nn.Module], target: str, roles: dict[str, tuple[str, ...]]) -> list[str]:
    if target in ("conv", "pointwise") and target not in roles:
        convolutions = {name: layer for name, layer in layers.items() if isinstance(layer, (nn.Conv1d, nn.Conv2d))}
        whole = {name for name, layer in convolutions.items() if layer.groups == 1 and set(layer.kernel_size) == {1}}
        return [name for name in convolutions if target == "conv" or name in whole]
    if target == "linear" and target not in roles:
        return [name for name, module in layers.items() if isinstance(module, nn.Linear)]
    endings = roles.get(target, (target,))
    found = [name for name in layers if any(name == end or name.endswith(f".{end}") for end in endings)]
    if not found and target in ROLES:
        found = [name for name in layers if name.rpartition(".")[2] in FUSED]
    return found


def adapt(backbone: Backbone, config: BackboneConfig) -> None:
    """Put the adapter on the backbone; only the adapter and the head stay trainable, with ``head`` the head alone.

    Raises:
        ValueError: If the rank is not positive, a target matches nothing, PEFT does not know the method, or it cannot
            be put on these layers.
    """
    if config.adapter is None:
        return
    if config.adapter == HEAD:
        backbone.model.requires_grad_(False)
        for name in backbone.head:
            backbone.model.get_submodule(name).requires_grad_(True)
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
    for name in IMPORTING:
        if config.adapter_args.get(name) is not None:
            raise ValueError(f"model.backbone.adapter_args: {name} makes PEFT import a module by name; leave it out")
    targets = resolve_targets(backbone.model, config.targets, backbone.head, backbone.roles)
    _check_groups(backbone.model, targets, method, config.rank)
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


def _check_groups(model: nn.Module, targets: list[str], method: str, rank: int) -> None:
    """Check that PEFT can put the method on the grouped and depthwise convolutions among the targets.

    It splits the rank of LoRA among a convolution's groups, and its LoHa has no grouped form.

    Raises:
        ValueError: If it cannot, with the layer's name.
    """
    for name in targets:
        layer = model.get_submodule(name)
        groups = getattr(layer, "groups", 1)
        if groups == 1 or method not in SCALED:
            continue
        if method not in ("lora", "dora") or rank % groups:
            needs = f"needs a rank divisible by them, not {rank}" if method in ("lora", "dora") else "has no such form"
            raise ValueError(
                f"model.backbone.targets: {name} is a convolution of {groups} groups, where PEFT's {method} {needs}; "
                "leave it out, as the role pointwise does"
            )


def _look_up(method: str) -> tuple[type[peft.PeftConfig], type | None]:
    """Return PEFT's configuration class of a method, and its tuner class."""
    known = {str(kind.value).lower(): kind for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    known["dora"] = known["lora"]
    if method not in known:
        raise ValueError(f"model.backbone.adapter: unknown adapter {method!r}; known are {', '.join(sorted(known))}")
    return PEFT_TYPE_TO_CONFIG_MAPPING[known[method]], PEFT_TYPE_TO_TUNER_MAPPING.get(known[method])


def _arguments(method: str, config: BackboneConfig) -> dict[str, Any]:
    """Return the arguments of a method that ``adapter_args`` may override."""
    if method == "ia3":
        return {"feedforward_modules": []}
    if method not in SCALED:
        return {}
    alpha = config.rank if config.alpha is None else config.alpha
    return {"r": config.rank, SCALED[method]: alpha, **({"use_dora": True} if method == "dora" else {})}


def try_adapter(backbone: Backbone, config: BackboneConfig, batch: dict[str, Any]) -> None:
    """Check that the adapter's parameters are ordinary tensors, and that the outputs depend on them.

    Args:
        backbone: The adapted backbone, in eval mode.
        config: Its configuration.
        batch: A sample of the task's kind.

    Raises:
        ValueError: If it is not so, or if the model does not run.
    """
    said = f"model.backbone.adapter: {config.adapter}"
    model = backbone.plain_model
    head = {id(param) for name in backbone.head for param in model.get_submodule(name).parameters()}
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad and id(p) not in head}
    for name, param in trained.items():
        flaw = _flaw(param)
        if flaw:
            raise ValueError(f"{said} trains a tensor {flaw} ({name}), which a Jacobian cannot be taken of; take lora")
    try:
        outputs = backbone(backbone.preprocess(batch)).sum()
        grads = torch.autograd.grad(outputs, [*trained.values()], allow_unused=True) if trained else ()
    except Exception as error:  # of any kind, by model and method
        raise ValueError(f"{said} does not run on {config.name} with this task's data ({one_line(error)})") from error
    if all(grad is None for grad in grads):
        raise ValueError(f"{said} trains nothing that the outputs depend on; choose other model.backbone.targets")


def _flaw(param: Tensor) -> str | None:
    """Return why a parameter is not an ordinary tensor, or None if it is."""
    if param.dtype not in REAL:
        return f"of {param.dtype}"
    if type(param) is not nn.Parameter or param.layout is not torch.strided or param.is_meta:
        return f"of the kind {type(param).__name__}, {param.layout} on {param.device}"
    if param._backward_hooks:  # torch has no public way to ask
        return "whose gradient a hook replaces"
    return None
