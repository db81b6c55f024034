"""Parameters that have no Kronecker factors, such as a norm's weights, and what becomes of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def describe(model: nn.Module, params: Iterable[Tensor]) -> str:
    """Their names and the types of their modules, the first few."""
    wanted = {id(p) for p in params}
    found = [
        f"{name}.{own} ({type(module).__name__})".lstrip(".")
        for name, module in model.named_modules()
        for own, param in module.named_parameters(recurse=False)
        if id(param) in wanted
    ]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def check_unfactored(name: str, model: nn.Module, params: list[Tensor], rule: str, lr: float) -> None:
    """Say what becomes of parameters without factors, or refuse them.

    Raises:
        ValueError: If the rule is to refuse them.
    """
    if not params:
        return
    named = describe(model, params)
    if rule == "refuse":
        raise ValueError(
            f"{name}: no Kronecker factors for {named}; set unfactored to adamw or freeze, or do not train them"
        )
    fate = "they stay as they are" if rule == "freeze" else f"AdamW moves them, with learning rate {lr:g}"
    warnings.warn(f"{name}: no Kronecker factors for {named}; {fate} (unfactored: {rule})", stacklevel=4)


def check_batch_norm(name: str, model: nn.Module) -> None:
    """Refuse batch statistics, for they mix the samples: no sample has errors of its own.

    Raises:
        ValueError: Naming the layer.
    """
    for path, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if module.running_mean is None:
            raise ValueError(
                f"{name}: {path} ({type(module).__name__}) keeps no statistics (track_running_stats=False) and mixes "
                "the samples of a batch; build it with track_running_stats=True, or take a norm of each sample's own"
            )
        if module.training:
            raise ValueError(
                f"{name}: {path} ({type(module).__name__}) is in train mode, where it mixes the samples of a batch; "
                "call model.eval(), which keeps its statistics still while the weights learn"
            )


class AdamWRule:
    """AdamW for parameters without factors, its state kept in the optimizer's own.

    Args:
        params: The parameters.
        lr: Learning rate.
    """

    def __init__(self, params: list[Tensor], lr: float) -> None:
        self._adamw = torch.optim.AdamW(params, lr=lr, weight_decay=0.0)

    def step(self, state: dict[int, dict[str, Tensor]], grads: list[Tensor], finite: Tensor) -> None:
        """Move the parameters; where the gradients are not finite, by nothing.

        Args:
            state: Moments by the parameters' place.
            grads: Gradients.
            finite: Whether they are, ().
        """
        params = self._adamw.param_groups[0]["params"]
        self._adamw.state.clear()
        self._adamw.state.update({params[i]: kept for i, kept in state.items()})
        for param, grad in zip(params, grads, strict=True):
            param.grad = torch.where(finite, grad, 0).to(param.dtype)
        self._adamw.step()
        for i, param in enumerate(params):
            param.grad = None
            state[i] = self._adamw.state[param]


def fused_attention(model: nn.Module) -> bool:
    """Whether a part of the model works attention out by a fused kernel, as far as it says so."""
    return any(
        getattr(getattr(module, "config", None), "_attn_implementation", None) == "sdpa"
        or bool(getattr(module, "fused_attn", False))
        or isinstance(module, nn.MultiheadAttention)
        for module in model.modules()
    )
