"""Sees, before a run begins, that an adapter is what the optimizers take it for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .adapters import one_line
from .base import Backbone
from .config import BackboneConfig

REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def try_adapter(backbone: Backbone, config: BackboneConfig, batch: dict[str, Any]) -> None:
    """See that what the adapter trains are ordinary tensors, and that the outputs depend on them.

    Args:
        backbone: The adapted backbone, in eval mode.
        config: Its configuration.
        batch: A sample of the task's kind.

    Raises:
        ValueError: If it is not so, or if the model does not run.
    """
    said = f"model.backbone.adapter: {config.adapter}"
    model = backbone.model.get_base_model()
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
    """Why a parameter is not an ordinary tensor."""
    if param.dtype not in REAL:
        return f"of {param.dtype}"
    if type(param) is not nn.Parameter or param.layout is not torch.strided or param.is_meta:
        return f"of the kind {type(param).__name__}, {param.layout} on {param.device}"
    if param._backward_hooks:
        return "whose gradient a hook replaces"
    return None
