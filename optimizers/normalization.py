"""Normalisation layers under autocast, so that their derivatives can be vectorised over the rows of a Jacobian."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)

# torch has no public name for the base of batch and instance normalisation in all dimensions
NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Classes whose derivatives torch cannot vectorise where the input is half precision and the weights are not."""


def normalize_in_float32(model: nn.Module) -> None:
    """Let all normalisation layers of a model compute in their own type where autocast hands them half precision.

    Under autocast convolutions return half precision and normalisation layers keep weights of float32. ``torch.vmap``
    fails on the backward pass of that mixture: it multiplies the rows by the weights, which makes them float32, and
    the kernels then refuse them beside a half-precision input. With CUDA, autocast itself casts the inputs of layer
    and group normalisation. Calling this twice makes no difference; copies of the model keep it.

    Args:
        model: The model.
    """
    for module in model.modules():
        # torch has no public way to see the hooks of a module
        if isinstance(module, NORMALIZATIONS) and _cast not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_cast)


def _cast(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return the inputs of a layer in the type of its own tensors, if they have half of it."""
    own = next((tensor for tensor in (*module.parameters(False), *module.buffers(False))), None)
    x = inputs[0] if inputs else None
    if own is None or not isinstance(x, Tensor) or x.dtype not in HALF or own.dtype in HALF:
        return None
    return (x.to(own.dtype), *inputs[1:])
