"""The Jacobian of the observation with respect to the state, by vector-Jacobian products.

Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates, ``rows`` = B*d, ``n`` state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..layer_hooks import LayerHooks, LayerIO, gradients
from ..normalization import normalize_in_float32
from ..ranges import COUNT, check_arguments
from .blocks import Block, BlockJacobian, DenseBlock, OuterProduct
from .layer_rows import layer_rows, rows_match_autograd

FACTORED_PARAMETERS = 1 << 12
"""Parameters of the largest dense layer whose matrix is formed: joined with its neighbours it is cheaper."""

FEW = 2
"""Rows up to which a pass for each is faster through convolutions on a CPU: a step is then 1.62 of AdamW's in place of
1.77 with EfficientNet-Lite0, and 1.52 in place of 1.59 with ViT-S/16; nine rows of a LeNet-5 are faster in one."""

JOINED_ELEMENTS = 1 << 20
"""Most elements of a matrix that is copied to form one block with its neighbours."""


def stack_rows(cotangents: Tensor) -> Tensor:
    """Return each sample's cotangents (B, d, m) in rows of their own, zero elsewhere, (B*d, B, m)."""
    B, d, m = cotangents.shape
    if B == 1:
        return cotangents.transpose(0, 1)
    identity = torch.eye(B, dtype=cotangents.dtype, device=cotangents.device)
    return torch.einsum("bjm,bc->bjcm", cotangents, identity).reshape(B * d, B, m)


def own_rows(G: Tensor) -> Tensor:
    """Return each row's own sample of derivatives (B*d, B, ...), (B, d, ...)."""
    own = torch.arange(G.shape[1], device=G.device)
    return G.unflatten(0, (G.shape[1], -1))[own, :, own]


Inputs = Sequence[Tensor | LayerIO]


def looped_vjp(outputs: Tensor, inputs: Inputs, rows: Tensor, retain_graph: bool) -> list[Tensor]:
    """Return all rows by one backward pass each: the reference of :func:`batched_vjp`, and its slow fallback."""
    passes = [
        gradients(outputs, inputs, row, retain_graph=retain_graph or i + 1 < len(rows)) for i, row in enumerate(rows)
    ]
    if len(passes) == 1:
        return [grad.unsqueeze(0) for grad in passes[0]]
    return [torch.stack(grads) for grads in zip(*passes, strict=True)]


def batched_vjp(outputs: Tensor, inputs: Inputs, rows: Tensor, retain_graph: bool) -> list[Tensor]:
    """Return all rows by one vectorised backward pass.

    Args:
        outputs: Model outputs with their graph, (B, m).
        inputs: Tensors, or calls of layers, to whose outputs to differentiate.
        rows: Cotangents, (rows, B, m).
        retain_graph: Keep the graph for another pass.

    Returns:
        For every input a tensor (rows, *input.shape); zeros where the outputs do not depend on it.
    """
    if len(rows) == 1:
        return looped_vjp(outputs, inputs, rows, retain_graph)

    def vjp(row: Tensor) -> list[Tensor]:
        return gradients(outputs, inputs, row, retain_graph)

    return list(torch.func.vmap(vjp)(rows))


class JacobianBuilder:
    """The computation of the Jacobian of the state from outputs and cotangents, in blocks.

    Args:
        params: The tensors of the state, in order.
        dtype: Floating type of the blocks.
        vectorize: Compute all rows in one vectorised backward pass, but for a few through convolutions on a CPU; if
            not, in one backward pass each, which is slow.
        chunk_size: Most rows of one vectorised pass; more are computed in several passes, which bounds memory.

    Raises:
        ValueError: If vectorize is not a bool, or chunk_size below 1.
    """

    def __init__(
        self, params: Sequence[Tensor], dtype: torch.dtype, vectorize: bool = True, chunk_size: int = 256
    ) -> None:
        check_arguments(
            "",
            [
                ("vectorize", vectorize, isinstance(vectorize, bool), "be true or false"),
                ("chunk_size", chunk_size, *COUNT.judge(chunk_size)),
            ],
        )
        self.params, self.dtype, self.vectorize, self.chunk_size = list(params), dtype, vectorize, chunk_size
        self._hooks: LayerHooks | None = None
        self._verified: dict[tuple[int, int, bool], bool] = {}
        self._batched_works = self._convolves = False

    def attach(self, model: nn.Module) -> None:
        """Watch the layers of ``model``, so that a batch costs what its samples cost, and dense heads are factored."""
        normalize_in_float32(model)
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks, self._verified = LayerHooks(model, self.params, always_on=True, grouped=True), {}
        self._convolves = any(isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for module in model.modules())

    def __call__(
        self, outputs: Tensor, cotangents: Tensor, announce: Callable[[int], None] | None = None
    ) -> BlockJacobian:
        """Return the Jacobian of the observation coordinates.

        A parameter's gradient is a sum over the samples, that of a layer's output is not: where layers account for the
        whole state, all samples share their rows. Otherwise each has rows of its own. A single sample's gradients are
        left to autograd, but for layers with a single position, whose matrices are not formed.

        Args:
            outputs: Model outputs with their graph, (B, m).
            cotangents: Derivatives of the coordinates with respect to the outputs, (B, d, m).
            announce: Called with the number of elements of the blocks before they are computed.
        """
        cotangents = cotangents.to(outputs.dtype)
        layers = self._layers(outputs)
        explained = {id(p) for io in layers for p in io.layer.params.values()}
        others = [p for p in self.params if id(p) not in explained]
        if announce is not None:
            announce(self._elements(layers, others, *cotangents.shape[:2]))
        shared = not others or len(cotangents) == 1
        rows = cotangents.transpose(0, 1) if shared else stack_rows(cotangents)
        limit = max(1, self.chunk_size // (len(cotangents) if shared else 1))
        grads = self._vjp(outputs, [*layers, *others], rows.split(limit))

        parts: dict[int, OuterProduct | Tensor] = {}
        for io, G in zip(layers, grads[: len(layers)], strict=True):
            parts |= layer_rows(io, G.transpose(0, 1) if shared else own_rows(G), self.dtype)
        for p, g in zip(others, grads[len(layers) :], strict=True):
            parts[id(p)] = g.to(self.dtype).reshape(len(g), p.numel())
        if self._hooks is not None:
            self._hooks.take()  # calls of checkpointed layers that the backward pass ran again
        return self._assemble([parts[id(p)] for p in self.params])

    def _elements(self, layers: list[LayerIO], others: list[Tensor], B: int, d: int) -> int:
        """Return the number of elements of the blocks; a large layer with a single position is kept in two factors."""
        total = B * d * sum(p.numel() for p in others)
        for io in layers:
            for name, p in io.layer.params.items():
                is_outer = io.positions == io.groups == 1 and name == "weight"
                is_factored = is_outer and p.numel() > FACTORED_PARAMETERS
                total += B * (d * len(p) + p.numel() // len(p)) if is_factored else B * d * p.numel()
        return total

    def _vjp(self, outputs: Tensor, inputs: Inputs, turns: Sequence[Tensor]) -> list[Tensor]:
        rows = sum(len(turn) for turn in turns)
        if not self.vectorize or (rows <= FEW and self._convolves and outputs.device.type == "cpu"):
            return looped_vjp(outputs, inputs, torch.cat([*turns]), False)
        sure = self._batched_works or rows == 1
        try:
            parts = [
                batched_vjp(outputs, inputs, turn, retain_graph=not sure or i + 1 < len(turns))
                for i, turn in enumerate(turns)
            ]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if sure:
                raise
            warnings.warn(
                f"the batched Jacobian does not work for this model, falling back to one backward pass a row, "
                f"which is slow: {str(error).splitlines()[0]}",
                stacklevel=2,
            )
            self.vectorize = False
            return looped_vjp(outputs, inputs, torch.cat([*turns]), False)
        self._batched_works = self._batched_works or rows > 1
        return [torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)]

    def _layers(self, outputs: Tensor) -> list[LayerIO]:
        """Return the layers whose derivatives hold, checked when first seen with this batch size and in this mode."""
        if self._hooks is None:
            return []
        batch = len(outputs)
        calls = [io for (io,) in self._hooks.take(samples=batch).values() if io.positions == 1 or batch > 1]
        seen = {(id(io.layer), batch, io.training): io for io in calls}
        new = {case: io for case, io in seen.items() if case not in self._verified}
        verdicts = dict(zip(new, rows_match_autograd(outputs, list(new.values())), strict=True)) if new else {}
        self._verified |= {case: verdict for case, verdict in verdicts.items() if verdict is not None}
        return [io for case, io in seen.items() if self._verified.get(case, case in verdicts)]

    def _assemble(self, parts: list[OuterProduct | Tensor]) -> BlockJacobian:
        """Join neighbouring small matrices into one block, so that small tensors do not cost a pass each."""
        blocks: list[tuple[slice, Block]] = []
        pending: list[Tensor] = []
        start = end = 0

        def flush() -> None:
            nonlocal start, pending
            if pending:
                H = torch.cat(pending, dim=1) if len(pending) > 1 else pending[0]
                blocks.append((slice(start, end), DenseBlock(H)))
                start, pending = end, []

        for param, part in zip(self.params, parts, strict=True):
            if isinstance(part, OuterProduct) and param.numel() <= FACTORED_PARAMETERS:
                part = part.dense()
            if isinstance(part, Tensor) and part.numel() <= JOINED_ELEMENTS:
                pending.append(part)
                end += param.numel()
                continue
            flush()
            end = start + param.numel()
            blocks.append((slice(start, end), DenseBlock(part) if isinstance(part, Tensor) else part))
            start = end
        flush()
        return BlockJacobian(blocks)
