"""Large backbones in little memory: frozen weights in fewer bits, and gradient checkpointing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from .base import Backbone, BackboneConfig


def check_memory_options(config: BackboneConfig, library: str) -> None:
    """Check, before anything is loaded, that the frozen weights can be stored as asked.

    Raises:
        ValueError: If not, naming what is missing.
    """
    if config.frozen == "float32":
        return
    if config.adapter is None:
        raise ValueError(
            f"model.backbone.frozen: {config.frozen} is for weights that are not trained, and without an adapter all "
            "are; set model.backbone.adapter"
        )
    if config.frozen != "4bit":
        return
    said = "model.backbone.frozen: 4bit"
    if library != "transformers" or not config.pretrained:
        raise ValueError(f"{said} is for pre-trained models of transformers; take bfloat16")
    if not torch.cuda.is_available():
        raise ValueError(f"{said} needs a CUDA device, and there is none; take bfloat16")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"{said} needs bitsandbytes: pip install 'filtune[4bit]'")


def quantisation(config: BackboneConfig, whole: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that load frozen weights in four bits (NF4, computed in bfloat16).

    Args:
        config: The backbone.
        whole: Names of modules that keep their bits, such as the head's, which are trained.
    """
    if config.frozen != "4bit":
        return {}
    from transformers import BitsAndBytesConfig

    kind = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(whole),
    )
    return {"quantization_config": kind, "device_map": {"": torch.cuda.current_device()}}


def shrink_frozen(backbone: Backbone, config: BackboneConfig) -> None:
    """Store the frozen weights in bfloat16 and the trained parameters in float32.

    Activations between the layers are then bfloat16. PEFT's adapters cast them to their own type and back; the head's
    input is cast to float32, so that the outputs are float32 too.
    """
    if config.frozen == "bfloat16":
        # buffers outside the state stay as they are: rounded rotary frequencies would displace the tokens
        for tensor in backbone.model.state_dict(keep_vars=True).values():
            if not tensor.requires_grad and tensor.is_floating_point():
                tensor.data = tensor.data.bfloat16()
    if config.frozen != "float32":
        for name in backbone.head:
            backbone.plain_model.get_submodule(name).register_forward_pre_hook(_to_float32)


def _to_float32(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def checkpoint_layers(backbone: Backbone) -> None:
    """Recompute the inside of each layer in the backward pass, in eval mode as well.

    timm has a switch for it; that of transformers works in train mode alone, where dropout would be on, so that the
    layers it names are wrapped here.

    Raises:
        ValueError: If the model has no layers made for it.
    """
    base = backbone.plain_model
    if hasattr(base, "set_grad_checkpointing"):
        base.set_grad_checkpointing(True)
        return
    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"model.backbone.gradient_checkpointing: {type(base).__name__} has no layers made for it")
    for module in base.modules():
        if hasattr(getattr(module, "config", None), "use_cache"):
            module.config.use_cache = False  # a decoder's cache would be filled twice
    for layer in layers:
        layer.forward = _checkpointed(layer.forward)  # type: ignore[method-assign]


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False)

    return checkpointed
