"""Record the inputs and outputs of a model's dense and convolutional layers during its forward pass.

Filters need each sample's derivative with respect to a layer's weights (``kalman/layer_rows.py``), natural gradients
the second moments of a layer's inputs and output gradients (``kfac/factors.py``). A layer applies one matrix at T
positions, y_t = W x_t + b; a convolution at T patches of its input. Both families therefore need the input x of each
call and the derivative with respect to its output y, and nothing else of the model.

Layers that are supported:
    ``nn.Linear``, and ``nn.Conv2d`` with explicit zero padding. Subclasses count unless they override the forward
    computation. With several groups, such as a depthwise convolution, a layer applies a matrix for each, to its own
    channels: Jacobians take them (``grouped``), the factors of natural gradients need one matrix. Jacobians are checked
    against autograd, so that they take a convolution that computes its padding as well, such as timm's ``Conv2dSame``
    or torch's ``padding="same"``: what it must have been follows from the shapes. A layer has to hold a trained
    parameter that no other module holds. A parameter that two modules share is left out of ``WatchedLayer.params``,
    because its derivative is a sum over both.

Calls that count:
    A call counts if its output has a graph (DoRA calls its layers a second time without one, for a norm) and if the
    layer used its own parameters (``torch.func.functional_call`` replaces them). Outputs are recorded as edges of the
    graph, so that writing into an output in place afterwards does not matter.

Where the two families differ, and why:
    * Second moments are sums over all calls and positions, in any order. Per-sample derivatives need exactly one call
      with the samples along its first dimension: ``take(samples=B)`` returns only these.
    * A natural gradient calls the closure itself and records during that call alone (``with hooks:``). What gradient
      checkpointing runs again in the backward pass is then not recorded. The Jacobian is given the outputs of a
      forward pass that is already over, so that its hooks record at all times (``always_on``). It discards what a
      checkpoint has run again by a further ``take``, and keeps at most two calls of a layer, because two already
      rule it out and more would only hold graphs.
    * Means over positions must leave out padding, so that natural gradients record the attention mask (``masks``).
      Sums of derivatives need no mask.

Shapes: ``B`` batch, ``T`` positions, ``in`` inputs (of a convolution: channels times kernel size), ``out`` outputs.
"""

from __future__ import annotations

import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class WatchedLayer:
    """A supported layer with at least one trained parameter of its own.

    Attributes:
        name: Its name in the model.
        module: The layer.
        params: Its trained parameters that no other module holds, by ``weight`` and ``bias``.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    params: dict[str, Tensor]


class LayerIO(NamedTuple):
    """Input and output of one call of a layer.

    Attributes:
        layer: The layer.
        x: Input, detached, (B, ..., in) or an image (B, channels, height, width).
        output: Position of the output in the graph.
        shape: Shape of the output.
        dtype: Floating type of the output.
        mask: Which positions are not padding, (B, T); None where all count.
        training: Whether the layer was in train mode.
    """

    layer: WatchedLayer
    x: Tensor
    output: GradientEdge
    shape: torch.Size
    dtype: torch.dtype
    mask: Tensor | None
    training: bool

    @property
    def positions(self) -> int:
        """Number of positions of a sample, T."""
        return (self.shape[2:] if isinstance(self.layer.module, nn.Conv2d) else self.shape[1:-1]).numel()

    @property
    def groups(self) -> int:
        """Number of matrices that the layer applies, each to channels of its own."""
        return self.layer.module.groups if isinstance(self.layer.module, nn.Conv2d) else 1

    def unfolded_input(self, dtype: torch.dtype) -> Tensor:
        """Return the vectors x_t to which the layer's matrix is applied, (B, T, in); of a convolution its patches."""
        layer, x = self.layer.module, self.x.to(dtype)
        if isinstance(layer, nn.Linear):
            return x.reshape(len(x) if x.dim() > 1 else 1, -1, x.shape[-1])
        if layer.kernel_size == layer.stride == (1, 1) and self.shape[2:] == x.shape[2:]:
            return x.flatten(2).mT
        padding: Any = layer.padding
        if not has_explicit_padding(layer):
            x, padding = nn.functional.pad(x, implied_padding(layer, x.shape[2:], self.shape[2:])), 0
        return nn.functional.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride).mT


class LayerHooks:
    """Watch the supported layers of a model and record their calls.

    The hooks stay on the model until :meth:`remove` is called or the last reference to this object is gone. A copied
    or unpickled model carries hooks that record nothing.

    Args:
        model: The model.
        params: The trained parameters.
        always_on: Record at all times, at most two calls of a layer, rather than within ``with hooks:`` alone.
        masks: Record the mask of the tokens from an argument ``attention_mask`` (B, T) of the model or of a part.
        grouped: Watch convolutions with several groups or computed padding as well.

    Attributes:
        layers: The supported layers, in the order of the model's modules.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Iterable[Tensor],
        *,
        always_on: bool = False,
        masks: bool = False,
        grouped: bool = False,
    ) -> None:
        self.layers: list[WatchedLayer] = []
        self.always_on = self._recording = always_on
        self._mask: Tensor | None = None
        self._calls: dict[int, list[LayerIO]] = {}
        handles: list[RemovableHandle] = []
        _remove_dead_hooks(model)
        trained = {id(p) for p in params if p.requires_grad}
        uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
        for name, module in model.named_modules():
            # not getattr: a parametrised weight is computed, and no parameter
            own = {kind: p for kind in ("weight", "bias") if (p := module._parameters.get(kind)) is not None}
            own = {kind: p for kind, p in own.items() if id(p) in trained and uses[id(p)] == 1}
            if own and is_supported(module, grouped):
                assert isinstance(module, nn.Linear | nn.Conv2d)
                hook = _Hook(self, LayerHooks._record, len(self.layers))
                self.layers.append(WatchedLayer(name, module, own))
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
            elif masks and "attention_mask" in (names := [*inspect.signature(module.forward).parameters]):
                hook = _Hook(self, LayerHooks._record_mask, names.index("attention_mask"))
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        self.remove = weakref.finalize(self, _remove, handles)
        self.remove.atexit = False

    def __enter__(self) -> Self:
        """Start to record; what was recorded earlier is dropped."""
        self._recording, self._mask, self._calls = True, None, {}
        return self

    def __exit__(self, *error: object) -> None:
        """Stop recording, before a checkpointed layer is run again in the backward pass."""
        self._recording, self._mask = self.always_on, None

    def take(self, samples: int | None = None) -> dict[int, list[LayerIO]]:
        """Return the recorded calls by the layer's index in ``layers``, and forget them.

        Args:
            samples: Return only layers called exactly once, with this many samples along the first dimension.
        """
        calls, self._calls = self._calls, {}
        calls = {i: calls[i] for i in sorted(calls)}
        if samples is None:
            return calls
        return {
            i: each for i, each in calls.items() if len(each) == 1 and each[0].x.dim() > 1 and len(each[0].x) == samples
        }

    def _record_mask(self, place: int, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = inputs[place] if place < len(inputs) else named.get("attention_mask")
        if self._recording and isinstance(mask, Tensor) and mask.dim() == 2:
            self._mask = mask.detach()

    def _record(
        self, index: int, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> None:
        layer = self.layers[index]
        own = all(getattr(module, name) is p for name, p in layer.params.items())
        if not (self._recording and own and isinstance(output, Tensor) and output.requires_grad):
            return
        if isinstance(layer.module, nn.Conv2d) and not _is_convolution(layer.module, inputs, output):
            return
        calls = self._calls.setdefault(index, [])
        if self.always_on and len(calls) == 2:
            return
        x = inputs[0] if inputs else named["input"]
        masked = self._mask is not None and isinstance(module, nn.Linear) and x.shape[:-1] == self._mask.shape
        mask = self._mask if masked else None
        edge = get_gradient_edge(output)
        calls.append(LayerIO(layer, x.detach(), edge, output.shape, output.dtype, mask, module.training))


class _Hook:
    """A hook that reports to an object as long as it lives; a copy of the hook reports to none.

    Args:
        owner: The object.
        method: Called with the object, the argument and what torch gives to a hook.
        argument: The argument.
    """

    def __init__(
        self, owner: LayerHooks | None = None, method: Callable[..., None] | None = None, argument: int = 0
    ) -> None:
        self._owner = None if owner is None else weakref.ref(owner)
        self._method, self._argument = method, argument

    @property
    def reports(self) -> bool:
        """True while the object it reports to is alive."""
        return self._owner is not None and self._owner() is not None

    def __call__(self, *arguments: Any) -> None:
        owner = None if self._owner is None else self._owner()
        if owner is not None and self._method is not None:
            self._method(owner, self._argument, *arguments)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


def _remove_dead_hooks(model: nn.Module) -> None:
    """Remove hooks that report to nobody, which a copied model has from the one it was copied from."""
    for module in model.modules():
        # torch has no public way to list a module's hooks
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Hook) and not hook.reports]:
                del hooks[key]
                # of either kind, those called with keyword arguments
                module._forward_hooks_with_kwargs.pop(key, None)
                module._forward_pre_hooks_with_kwargs.pop(key, None)  # likewise


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def is_supported(module: nn.Module, grouped: bool = False) -> bool:
    """Return whether the module applies one matrix at every position, or one per group, as its class in torch does.

    Args:
        module: The module.
        grouped: Whether convolutions count that have several groups or compute their padding.
    """
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and (grouped or (module.groups == 1 and has_explicit_padding(module)))
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def has_explicit_padding(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is computed as torch does, with the padding that it names in numbers."""
    names = ("forward", "_conv_forward")
    return (
        all(getattr(type(conv), name) is getattr(nn.Conv2d, name) for name in names)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def implied_padding(conv: nn.Conv2d, size: Sequence[int], positions: Sequence[int]) -> list[int]:
    """Return the padding, as :func:`torch.nn.functional.pad` takes it, with which a convolution has these positions.

    What is odd goes to the end, as in TensorFlow. A negative number leaves out pixels at the end, which no patch holds.

    Args:
        conv: The convolution.
        size: Height and width of its input.
        positions: Height and width of its output.
    """
    padding = []
    for axis in (1, 0):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
        total = (positions[axis] - 1) * conv.stride[axis] + reach - size[axis]
        start = max(total, 0) // 2
        padding += [start, total - start]
    return padding


def _is_convolution(conv: nn.Conv2d, inputs: tuple[Any, ...], output: Any) -> bool:
    """Return whether input and output of a call have the channels of the convolution, whatever a subclass does."""
    if has_explicit_padding(conv):
        return True
    found = [(inputs[0] if inputs else None, conv.in_channels), (output, conv.out_channels)]
    return all(isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] == channels for x, channels in found)


def is_compiled(model: nn.Module) -> bool:
    """Return whether the model, or a part of it, runs under ``torch.compile``."""
    # torch has no public way to ask: a wrapper holds the original, ``module.compile()`` the compiled call
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules())


def gradients(
    outputs: Tensor, inputs: Sequence[Tensor | LayerIO], cotangents: Tensor, retain_graph: bool
) -> list[Tensor]:
    """Return a vector-Jacobian product with respect to tensors and layers' outputs; zeros where nothing depends on one.

    Args:
        outputs: Model outputs with their graph, (B, m).
        inputs: Tensors, and calls of layers, which stand for their outputs.
        cotangents: Cotangents of the outputs, (B, m).
        retain_graph: Keep the graph for another pass.
    """
    targets: list[Any] = [given.output if isinstance(given, LayerIO) else given for given in inputs]
    found = torch.autograd.grad(outputs, targets, cotangents, retain_graph=retain_graph, allow_unused=True)
    return [_zeros(given) if grad is None else grad for given, grad in zip(inputs, found, strict=True)]


def _zeros(given: Tensor | LayerIO) -> Tensor:
    if isinstance(given, LayerIO):
        return given.x.new_zeros(given.shape, dtype=given.dtype)
    return torch.zeros_like(given)


def last_layer(shapes: Sequence[torch.Size]) -> list[int]:
    """Return the indices of the last matrix and of the vectors after it."""
    matrix = max((i for i, shape in enumerate(shapes) if len(shape) > 1), default=0)
    return list(range(matrix, len(shapes)))


def head_parameters(model: nn.Module, params: Sequence[Tensor]) -> list[int]:
    """Return the indices of the trained parameters of the model's head.

    A model may say which it is, by an attribute ``head``: a module, or the names of its sub-modules. Otherwise, or if
    nothing of it is trained, the head is the last layer in the order of the model, whatever the order of the groups.
    A tensor below a name counts, too, so that a copy that an adapter trains in its place is found.
    """
    place = {id(p): i for i, p in enumerate(params)}
    named = [(name, p) for name, p in model.named_parameters() if id(p) in place]
    said = getattr(model, "head", None)
    own: set[int] = set()
    if isinstance(said, nn.Module):
        own = {id(p) for p in said.parameters()}
    elif isinstance(said, tuple | list):
        own = {id(p) for name, p in named if any(f".{part}." in f".{name}" for part in said)}
    found = [place[id(p)] for _, p in named if id(p) in own]
    if not found and named:
        found = [place[id(named[i][1])] for i in last_layer([p.shape for _, p in named])]
    return sorted(found) or last_layer([p.shape for p in params])
