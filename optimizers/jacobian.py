"""The Jacobian of the observation with respect to the state, by vector-Jacobian products.

Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates, ``rows`` = B*d, ``n`` state.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from optimizers.blocks import CHUNK_ELEMENTS, Block, BlockJacobian, Explicit, OuterProduct
from optimizers.capture import DenseCapture, Seen

Method = Literal["batched", "loop"]


def stack_rows(cotangents: Tensor) -> Tensor:
    """Place each sample's cotangents (B, d, m) in rows of their own that are zero elsewhere, (B*d, B, m)."""
    B, d, m = cotangents.shape
    if B == 1:
        return cotangents.transpose(0, 1)
    identity = torch.eye(B, dtype=cotangents.dtype, device=cotangents.device)
    return torch.einsum("bjm,bc->bjcm", cotangents, identity).reshape(B * d, B, m)


def looped_vjp(outputs: Tensor, inputs: Sequence[Tensor], rows: Tensor, retain_graph: bool) -> list[Tensor]:
    """One backward pass a row: the oracle of :func:`batched_vjp`, and its slow fallback."""
    passes = [
        torch.autograd.grad(
            outputs, inputs, row, retain_graph=retain_graph or i + 1 < len(rows), materialize_grads=True
        )
        for i, row in enumerate(rows)
    ]
    return [torch.stack(grads) for grads in zip(*passes, strict=True)]


def batched_vjp(outputs: Tensor, inputs: Sequence[Tensor], rows: Tensor, retain_graph: bool) -> list[Tensor]:
    """All rows in one vectorised backward pass.

    Args:
        outputs: Model outputs with their graph, (B, m).
        inputs: Tensors to differentiate with respect to.
        rows: Cotangents, (rows, B, m).
        retain_graph: Keep the graph for another pass.

    Returns:
        For every input a tensor (rows, *input.shape); zeros where the outputs do not depend on it.
    """
    if len(rows) == 1:
        return looped_vjp(outputs, inputs, rows, retain_graph)
    grads = torch.autograd.grad(
        outputs, inputs, rows, retain_graph=retain_graph, is_grads_batched=True, allow_unused=True
    )
    return [x.new_zeros(len(rows), *x.shape) if grad is None else grad for x, grad in zip(inputs, grads, strict=True)]


class JacobianBuilder:
    """Turns outputs and cotangents into the Jacobian of the state, in blocks.

    Args:
        params: The tensors of the state, in order.
        dtype: Floating type of the blocks.
        method: ``batched``, or ``loop`` (slow: one backward pass a row).
        max_rows: Most rows of one vectorised pass; more are worked through in turns, which bounds memory.
    """

    def __init__(
        self, params: Sequence[Tensor], dtype: torch.dtype, method: Method = "batched", max_rows: int = 256
    ) -> None:
        self.params, self.dtype, self.method, self.max_rows = list(params), dtype, method, max_rows
        self._capture: DenseCapture | None = None
        self._verified: dict[tuple[int, int, bool], bool] = {}
        self._batched_works = False

    def attach(self, model: nn.Module) -> None:
        """Watch the dense layers of ``model``; those seen at one position are never formed as a matrix."""
        if self._capture is not None:
            self._capture.remove()
        self._capture, self._verified = DenseCapture(model, self.params), {}

    def __call__(self, outputs: Tensor, cotangents: Tensor) -> BlockJacobian:
        """The Jacobian of the observation coordinates.

        Args:
            outputs: Model outputs with their graph, (B, m).
            cotangents: Derivatives of the coordinates with respect to the outputs, (B, d, m).
        """
        B, d, _ = cotangents.shape
        rows = stack_rows(cotangents.to(outputs.dtype))
        dense = self._dense(outputs, B)
        inputs = [dense[id(p)].y if id(p) in dense else p for p in self.params]
        grads = self._vjp(outputs, inputs, rows)
        own = torch.arange(B, device=rows.device)
        return self._assemble(
            [
                OuterProduct(g.to(self.dtype).view(B, d, B, -1)[own, :, own], dense[id(p)].x.to(self.dtype))
                if id(p) in dense
                else g.to(self.dtype).flatten(1)
                for p, g in zip(self.params, grads, strict=True)
            ]
        )

    def _vjp(self, outputs: Tensor, inputs: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
        if self.method == "loop":
            return looped_vjp(outputs, inputs, rows, False)
        turns = rows.split(self.max_rows)
        sure = self._batched_works or len(rows) == 1
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
            self.method = "loop"
            return looped_vjp(outputs, inputs, rows, False)
        self._batched_works = self._batched_works or len(rows) > 1
        return [torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)]

    def _dense(self, outputs: Tensor, batch: int) -> dict[int, Seen]:
        """Captured layers whose factors hold, checked when first seen with this batch size and in this mode."""
        if self._capture is None:
            return {}
        seen = self._capture.take(batch)
        for key, layer in seen.items():
            case = (key, batch, layer.training)
            if case not in self._verified:
                weight = next(p for p in self.params if id(p) == key)
                verdict = _factors_hold(outputs, weight, layer)
                if verdict is not None:
                    self._verified[case] = verdict
        return {key: layer for key, layer in seen.items() if self._verified.get((key, batch, layer.training))}

    def _assemble(self, parts: list[OuterProduct | Tensor]) -> BlockJacobian:
        """Join neighbouring small matrices into one block, so that small tensors do not cost a pass each."""
        blocks: list[tuple[slice, Block]] = []
        pending: list[Tensor] = []
        start = end = 0

        def flush() -> None:
            nonlocal start, pending
            if pending:
                H = torch.cat(pending, dim=1) if len(pending) > 1 else pending[0]
                blocks.append((slice(start, end), Explicit(H)))
                start, pending = end, []

        for param, part in zip(self.params, parts, strict=True):
            if isinstance(part, Tensor) and part.numel() <= CHUNK_ELEMENTS:
                pending.append(part)
                end += param.numel()
                continue
            flush()
            end = start + param.numel()
            blocks.append((slice(start, end), Explicit(part) if isinstance(part, Tensor) else part))
            start = end
        flush()
        return BlockJacobian(blocks)


def _factors_hold(outputs: Tensor, weight: Tensor, layer: Seen) -> bool | None:
    """Whether g_b x_b' is the gradient of each sample's outputs; None where it is zero, which says nothing.

    The cotangents are random, so that neither a saturated softmax nor a symmetry hides a difference.
    """
    cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    tolerance = max(torch.finfo(outputs.dtype).eps, torch.finfo(layer.y.dtype).eps) ** 0.5
    telling = True
    for b in range(len(outputs)):
        row = torch.zeros_like(outputs)
        row[b] = cotangents[b]
        y_grad, w_grad = torch.autograd.grad(outputs, [layer.y, weight], row, retain_graph=True, materialize_grads=True)
        difference = torch.outer(y_grad[b].double(), layer.x[b].double()) - w_grad.double()
        if not difference.norm() <= tolerance * w_grad.double().norm():
            return False
        telling = telling and bool(w_grad.any())
    return True if telling else None
