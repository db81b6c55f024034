"""Dense and convolutional layers as Kronecker factors see them: what goes in and what comes out, at every position.

A layer applies one matrix at T positions of a sample, y_t = W x_t + b; a convolution at T patches of an image. Where
the bias is trained, x_t has a last coordinate 1, so that [W, b] is the layer's matrix.

Shapes: ``B`` batch, ``T`` positions, ``rows`` = B*T, ``out`` outputs, ``k`` inputs and the bias' column.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge


class Pass(NamedTuple):
    """One pass through a layer.

    Attributes:
        x: Input, (B, ..., in) or an image (B, in, height, width).
        y: Where the output stands in the graph; what later happens to the tensor in place does not matter.
        shape: Shape of the output.
        mask: Which positions are not padding, (B, T); None where all are.
    """

    x: Tensor
    y: GradientEdge
    shape: torch.Size
    mask: Tensor | None


@dataclass(eq=False)
class Layer:
    """A layer whose matrix is trained.

    Attributes:
        name: Its name in the model.
        module: It.
        weight: W.
        bias: b, where it is trained.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    weight: Tensor
    bias: Tensor | None

    @property
    def params(self) -> list[Tensor]:
        """W, and b where it is trained."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, k)."""
        return len(self.weight), self.weight[0].numel() + (self.bias is not None)

    @property
    def dtype(self) -> torch.dtype:
        """Of the algebra: at least float32."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def activations(self, seen: Pass) -> tuple[Tensor, Tensor]:
        """x_t of all positions, (rows, k), zero where padded; and how many are not padded, ()."""
        x, layer = seen.x.to(self.dtype), self.module
        if isinstance(layer, nn.Linear):
            x = x.reshape(-1, x.shape[-1])
        elif layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0):
            x = x.flatten(2).mT.flatten(0, 1)
        else:
            assert not isinstance(layer.padding, str)
            x = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            x = x.mT.flatten(0, 1)
        if self.bias is not None:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        if seen.mask is None:
            return x, x.new_full((), len(x))
        mask = seen.mask.to(x.dtype)
        return x * mask.reshape(-1, 1), mask.sum()

    def errors(self, g: Tensor) -> Tensor:
        """Derivatives by y_t of all positions, (rows, out), from those by the output, shaped like it."""
        if isinstance(self.module, nn.Conv2d):
            g = g.flatten(2).mT
        return g.reshape(-1, g.shape[-1]).to(self.dtype)

    def matrix(self, grads: dict[int, Tensor]) -> Tensor:
        """Derivative by [W, b], (out, k), from those by the parameters' id."""
        columns = [grads[id(param)].reshape(len(self.weight), -1) for param in self.params]
        return (columns[0] if len(columns) == 1 else torch.cat(columns, 1)).to(self.dtype)

    def split(self, step: Tensor) -> list[Tensor]:
        """A change of [W, b], (out, k), as one of each parameter."""
        if self.bias is None:
            return [step.view_as(self.weight)]
        return [step[:, :-1].reshape(self.weight.shape), step[:, -1]]


class LayerWatch:
    """Records, while it is open, what passes through the layers of a model that have a trained matrix.

    A mask of the tokens is taken from an argument ``attention_mask`` (B, T) of the model or of a part of it.

    Args:
        model: The model.
        params: The trained parameters.

    Attributes:
        layers: The layers that have Kronecker factors: dense, or convolutional in one group with padding by zeros.
    """

    def __init__(self, model: nn.Module, params: Iterable[Tensor]) -> None:
        wanted = {id(p) for p in params}
        uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
        self.layers: list[Layer] = []
        self._open = False
        self._mask: Tensor | None = None
        self._passes: dict[int, list[Pass]] = {}
        for name, module in model.named_modules():
            if has_factors(module) and id(module.weight) in wanted and uses[id(module.weight)] == 1:
                assert isinstance(module, (nn.Linear, nn.Conv2d))
                own = module.bias is not None and id(module.bias) in wanted and uses[id(module.bias)] == 1
                self.layers.append(Layer(name, module, module.weight, module.bias if own else None))
                module.register_forward_hook(self._see, with_kwargs=True)
            elif "attention_mask" in (names := [*inspect.signature(module.forward).parameters]):
                hook = partial(self._see_mask, names.index("attention_mask"))
                module.register_forward_pre_hook(hook, with_kwargs=True)

    def __enter__(self) -> LayerWatch:
        """Begin to record."""
        self._open, self._mask, self._passes = True, None, {}
        return self

    def __exit__(self, *error: object) -> None:
        """End: a checkpointed layer that is run again during the backward pass is not recorded again."""
        self._open, self._mask = False, None

    def take(self) -> dict[int, list[Pass]]:
        """Hand over and forget what was recorded, by the layer's place in ``layers``."""
        seen, self._passes = self._passes, {}
        return {i: seen[id(layer.module)] for i, layer in enumerate(self.layers) if id(layer.module) in seen}

    def _see_mask(self, place: int, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = inputs[place] if place < len(inputs) else named.get("attention_mask")
        if self._open and isinstance(mask, Tensor) and mask.dim() == 2:
            self._mask = mask.detach()

    def _see(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        if self._open and output.requires_grad:
            x = inputs[0] if inputs else named["input"]
            masked = self._mask is not None and isinstance(module, nn.Linear) and x.shape[:-1] == self._mask.shape
            seen = Pass(x.detach(), get_gradient_edge(output), output.shape, self._mask if masked else None)
            self._passes.setdefault(id(module), []).append(seen)

    def __getstate__(self) -> dict[str, Any]:
        """A copied model takes its hooks along, but not the passes, whose graphs cannot be copied."""
        return {**self.__dict__, "_passes": {}, "_mask": None, "_open": False}


def has_factors(module: nn.Module) -> bool:
    """Whether the layer's matrix has Kronecker factors; a subclass may do something else with it."""
    if type(module).forward not in (nn.Linear.forward, nn.Conv2d.forward):
        return False
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)
