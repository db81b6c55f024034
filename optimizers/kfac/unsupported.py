"""Parameters without Kronecker factors, such as a norm's weights, and models without per-sample gradients."""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..base import unhooked_step
from ..parts import Part
from ..ranges import NOT_NEGATIVE, check_ranges

BatchNorm = nn.modules.batchnorm._BatchNorm  # torch has no public name for the one class above all of them


class UnsupportedParams(Part, ABC):
    """Policy for trained parameters that have no Kronecker factors.

    Args:
        optimizer: Name of the optimizer, for messages.

    A rule's own options are the keyword-only parameters of its constructor.
    """

    kind = "unsupported_params"

    def __init__(self, optimizer: str) -> None:
        self.optimizer = optimizer
        self.params: list[Tensor] = []

    def announce(self, model: nn.Module, params: Sequence[Tensor]) -> None:
        """Warn which parameters are concerned, or refuse them.

        Raises:
            ValueError: If they are refused.
        """
        if params:
            named = list_parameters(model, params)
            message = f"{self.optimizer}: no Kronecker factors for {named}; {self.fate()}"
            warnings.warn(f"{message} (unsupported_params: {self.name})", stacklevel=3)

    def fate(self) -> str:
        """Return what happens to them, for the warning."""
        return "they stay as they are"

    def attach(self, params: Sequence[Tensor]) -> None:
        """Set the parameters without factors."""
        self.params = list(params)

    def step(self, state: dict[int, dict[str, Any]], grads: list[Tensor], finite: Tensor) -> None:
        """Update the parameters.

        Args:
            state: The rule's state, by the parameters' position in ``params``.
            grads: Their gradients.
            finite: Whether all gradients are finite, (); if not, they count as zero.
        """


class Freeze(UnsupportedParams):
    """Parameters without factors are not updated."""

    name = "freeze"


class Refuse(UnsupportedParams):
    """Training does not start."""

    name = "refuse"

    def announce(self, model: nn.Module, params: Sequence[Tensor]) -> None:
        """Refuse the parameters without factors.

        Raises:
            ValueError: If there are any.
        """
        if params:
            raise ValueError(
                f"{self.optimizer}: no Kronecker factors for {list_parameters(model, params)}; "
                "set unsupported_params to adamw or freeze, or do not train them"
            )


class UpdateByAdamW(UnsupportedParams):
    """AdamW updates them, without weight decay.

    Args:
        optimizer: Name of the optimizer, for messages.
        fallback_lr: Learning rate.

    Raises:
        ValueError: If the learning rate is out of range.
    """

    name = "adamw"

    def __init__(self, optimizer: str, *, fallback_lr: float = 1e-3) -> None:
        super().__init__(optimizer)
        check_ranges(optimizer, {"fallback_lr": fallback_lr}, {"fallback_lr": NOT_NEGATIVE})
        self.lr = fallback_lr

    def fate(self) -> str:
        """Return what happens to them, for the warning."""
        return f"AdamW updates them, with learning rate {self.lr:g}"

    def attach(self, params: Sequence[Tensor]) -> None:
        """Set the parameters without factors."""
        super().attach(params)
        self._adamw = torch.optim.AdamW(self.params, lr=self.lr, weight_decay=0.0) if params else None

    def step(self, state: dict[int, dict[str, Any]], grads: list[Tensor], finite: Tensor) -> None:
        """Take a step of AdamW whose moments are kept in the state."""
        if self._adamw is None:
            return
        self._adamw.state.clear()
        self._adamw.state.update({self.params[i]: moments for i, moments in state.items()})
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = torch.where(finite, grad, 0).to(param.dtype)
        unhooked_step(self._adamw.step)()
        for i, param in enumerate(self.params):
            param.grad = None
            state[i] = self._adamw.state[param]


def list_parameters(model: nn.Module, params: Iterable[Tensor]) -> str:
    """Return the names of parameters and the types of their modules, the first three."""
    wanted = {id(p) for p in params}
    found = [
        f"{name}.{own} ({type(module).__name__})".lstrip(".")
        for name, module in model.named_modules()
        for own, param in module.named_parameters(recurse=False)
        if id(param) in wanted
    ]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Return the norms over batches of a model, by name."""
    return {path: part for path, part in model.named_modules() if isinstance(part, BatchNorm)}


def check_batch_norm(name: str, norms: Mapping[str, BatchNorm]) -> None:
    """Refuse batch statistics, which mix the samples: the gradient of a sample's loss then depends on the others.

    Args:
        name: Name of the optimizer, for messages.
        norms: The model's norms over batches, by name (:func:`batch_norms`).

    Raises:
        ValueError: Naming the layer.
    """
    for path, module in norms.items():
        if module.running_mean is None:
            raise ValueError(
                f"{name}: {path} ({type(module).__name__}) keeps no statistics (track_running_stats=False) and mixes "
                "the samples of a batch; build it with track_running_stats=True, or use a norm of single samples"
            )
        if module.training:
            raise ValueError(
                f"{name}: {path} ({type(module).__name__}) is in train mode, where it mixes the samples of a batch; "
                "call model.eval(), which freezes its statistics while the weights are trained"
            )


def fused_attention(model: nn.Module) -> bool:
    """Return whether a part of the model declares that it computes attention with a fused kernel."""
    return any(
        getattr(getattr(module, "config", None), "_attn_implementation", None) == "sdpa"
        or bool(getattr(module, "fused_attn", False))
        or isinstance(module, nn.MultiheadAttention)
        for module in model.modules()
    )
