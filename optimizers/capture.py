"""Dense and convolutional layers, seen in the forward pass: what went in, and what came out with its graph.

Both apply one matrix at T positions, y_t = W x_t + b; a convolution at T patches of its input. A sample's derivatives
with respect to W and b follow from those with respect to its y, so that one backward pass serves all samples at once.

Shapes: ``B`` batch, ``d`` observation coordinates, ``rows`` = B*d, ``T`` positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .kalman.blocks import OuterProduct


class Seen(NamedTuple):
    """One pass through a layer.

    Attributes:
        layer: The layer.
        trained: Its parameters that are trained.
        x: Its input, (B, ..., in) or an image (B, in, height, width).
        y: Its output with the graph attached.
        version: How often ``y`` had been written to in place.
        training: The layer's mode.
    """

    layer: nn.Module
    trained: list[Tensor]
    x: Tensor
    y: Tensor
    version: int
    training: bool

    def derivatives(self, G: Tensor, dtype: torch.dtype) -> dict[int, OuterProduct | Tensor]:
        """Rows of the Jacobian for the layer's trained parameters, by their id.

        H_W = sum_t g_t x_t', H_b = sum_t g_t: matrices (rows, n_i), or factors where the layer has a single position.

        Args:
            G: Derivative of the observation coordinates with respect to ``y``, (B, d, *y.shape[1:]).
            dtype: Floating type of the result.
        """
        G, X = self._unrolled(G.to(dtype), self.x.to(dtype))
        rows, found = G.shape[0] * G.shape[1], dict[int, OuterProduct | Tensor]()
        for param in self.trained:
            if param is self.layer.bias:
                found[id(param)] = G.sum(-1).reshape(rows, -1)
            elif self.single:
                found[id(param)] = OuterProduct(G.squeeze(-1), X.squeeze(1))
            else:
                found[id(param)] = _products(G, X).reshape(rows, -1)
        return found

    @property
    def single(self) -> bool:
        """Whether T = 1."""
        return _positions(self.layer, self.y) == 1

    def _unrolled(self, G: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, d, out, T) and (B, T, in)."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return G.reshape(*G.shape[:2], -1, G.shape[-1]).mT, x.reshape(len(x), -1, x.shape[-1])
        assert isinstance(layer, nn.Conv2d)
        assert not isinstance(layer.padding, str)
        if layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0):
            return G.flatten(3), x.flatten(2).mT
        patches = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return G.flatten(3), patches.mT


class LayerCapture:
    """Records the dense and convolutional layers of a model that have trained parameters.

    A layer counts where the forward pass went through it exactly once, with the samples along its first dimension,
    and its output was not written over in place: the graph then knows it as another layer's output.

    Args:
        model: The model whose layers are watched.
        params: The trained parameters; layers that have none of them are left alone.
    """

    def __init__(self, model: nn.Module, params: Iterable[Tensor]) -> None:
        wanted = {id(p) for p in params}
        uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
        self._seen: dict[int, list[Seen]] = {}
        self._trained: dict[int, dict[str, Tensor]] = {}
        self._handles = []
        for module in filter(_is_matrix, model.modules()):
            trained: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
            if trained and all(id(p) in wanted and uses[id(p)] == 1 for p in trained.values()):
                self._trained[id(module)] = trained
                self._handles.append(module.register_forward_hook(self._record, with_kwargs=True))

    def take(self, batch: int) -> list[Seen]:
        """Hand over and forget what the last forward pass showed."""
        seen, self._seen = self._seen, {}
        return [
            passes[0]
            for passes in seen.values()
            if len(passes) == 1
            and passes[0].x.dim() >= (4 if isinstance(passes[0].layer, nn.Conv2d) else 2)
            and len(passes[0].x) == batch
            and passes[0].y._version == passes[0].version
        ]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        """A copied model takes its hooks along, but not the passes, whose graphs cannot be copied."""
        return {**self.__dict__, "_seen": {}}

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: Tensor) -> None:
        trained = self._trained.get(id(module), {})
        own = bool(trained) and all(getattr(module, name) is p for name, p in trained.items())
        if own and output.requires_grad:  # own: not where functional_call put other parameters
            passes = self._seen.setdefault(id(module), [])
            if len(passes) < 2:  # a second pass rules the layer out; more would only keep graphs alive
                x = inputs[0] if inputs else named["input"]
                found = list(trained.values())
                passes.append(Seen(module, found, x.detach(), output, output._version, module.training))


def factors_hold(outputs: Tensor, layers: list[Seen]) -> list[bool | None]:
    """Whether the derivatives of each layer are those that autograd finds, a sample at a time.

    They are not where samples mix, or where a parameter is used elsewhere as well.

    Args:
        outputs: Model outputs with their graph, (B, m).
        layers: What was seen of the layers.

    Returns:
        For every layer whether they are; None where a sample's are zero, which says nothing of another input.
    """
    # random, so that neither a saturated softmax nor a symmetry hides a difference
    cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    identity = torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)
    ys, params = [layer.y for layer in layers], [param for layer in layers for param in layer.trained]
    grads = torch.autograd.grad(outputs, ys, cotangents, retain_graph=True, materialize_grads=True)
    found = [layer.derivatives(g.unsqueeze(1), torch.float64) for layer, g in zip(layers, grads, strict=True)]
    errors, norms = [], []
    for b, row in enumerate(identity.unsqueeze(-1) * cotangents):
        truth = iter(torch.autograd.grad(outputs, params, row, retain_graph=True, materialize_grads=True))
        for layer, parts in zip(layers, found, strict=True):
            exact = torch.cat([next(truth).double().flatten() for _ in layer.trained])
            errors.append((torch.cat([_row(parts[id(param)], b) for param in layer.trained]) - exact).norm())
            norms.append(exact.norm())
    tolerance = max(torch.finfo(tensor.dtype).eps for tensor in (outputs, *ys)) ** 0.5
    error, norm = (torch.stack(values).view(len(outputs), -1).cpu() for values in (errors, norms))
    holds, telling = (error <= tolerance * norm).all(0), (norm > 0).all(0)
    return [bool(right) if told or not right else None for right, told in zip(holds, telling, strict=True)]


def _row(part: OuterProduct | Tensor, b: int) -> Tensor:
    return part[b] if isinstance(part, Tensor) else torch.outer(part.G[b, 0], part.X[b]).flatten()


def _products(G: Tensor, X: Tensor) -> Tensor:
    """GX, (B, d, out, T) and (B, T, in) to (B, d, out, in), with the longer of out and in last, which is faster."""
    if G.shape[2] > X.shape[2]:
        return (X.mT.unsqueeze(1) @ G.mT).mT
    return (G.flatten(1, 2) @ X).unflatten(1, G.shape[1:3])


def _positions(layer: nn.Module, y: Tensor) -> int:
    """T."""
    return (y.shape[2:] if isinstance(layer, nn.Conv2d) else y.shape[1:-1]).numel()


def _is_matrix(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is nn.Linear
