"""Rows of the Jacobian that belong to a layer's parameters, from its input and the derivatives by its output.

Of a layer y_t = W x_t + b at T positions, with g_t the derivative of a sample's observation coordinate by y_t,

    H_W = sum_t g_t x_t',     H_b = sum_t g_t,

so that one backward pass to the layer's outputs serves all samples at once: y has a dimension of samples, W has not.
A convolution with several groups has such a matrix for each, of its own channels: the rows of W are those of all groups
one after the other.

Shapes: ``B`` batch, ``d`` observation coordinates, ``rows`` = B*d, ``T`` positions, ``n_i`` entries of a parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layer_hooks import LayerIO, gradients
from .blocks import OuterProduct


def layer_rows(io: LayerIO, G: Tensor, dtype: torch.dtype) -> dict[int, OuterProduct | Tensor]:
    """Return the rows of the Jacobian for the layer's trained parameters, by the parameters' id.

    Each is a matrix (rows, n_i), or an :class:`OuterProduct` for the weight of a layer with a single position.

    Args:
        io: The layer's only call, with the samples along the first dimension.
        G: Derivative of the observation coordinates with respect to the output, (B, d, *io.shape[1:]).
        dtype: Floating type of the result.
    """
    G = G.to(dtype)
    rows, found = G.shape[0] * G.shape[1], dict[int, OuterProduct | Tensor]()
    G = G.flatten(3) if isinstance(io.layer.module, nn.Conv2d) else G.reshape(*G.shape[:2], -1, G.shape[-1]).mT
    for name, param in io.layer.params.items():
        if name == "bias":
            found[id(param)] = G.sum(-1).reshape(rows, -1)
        elif io.groups > 1:
            own, X = G.unflatten(2, (io.groups, -1)), io.unfolded_input(dtype).unflatten(2, (io.groups, -1))
            found[id(param)] = torch.einsum("bdgot,btgi->bdgoi", own, X).reshape(rows, -1)
        elif io.positions == 1:
            found[id(param)] = OuterProduct(G.squeeze(-1), io.unfolded_input(dtype).squeeze(1))
        else:
            found[id(param)] = _products(G, io.unfolded_input(dtype)).reshape(rows, -1)
    return found


def rows_match_autograd(outputs: Tensor, layers: list[LayerIO]) -> list[bool | None]:
    """Return whether :func:`layer_rows` gives the derivatives that autograd finds one sample at a time.

    It does not where samples are mixed (batch statistics) or where a parameter is used outside of its layer as well.

    Args:
        outputs: Model outputs with their graph, (B, m).
        layers: The calls to check.

    Returns:
        For every layer whether they agree; None where a sample's derivatives are zero, which proves nothing about
        other inputs.
    """
    # random, so that neither a saturated softmax nor a symmetry hides a difference
    cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    identity = torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)
    params = [param for io in layers for param in io.layer.params.values()]
    grads = gradients(outputs, layers, cotangents, retain_graph=True)
    found = [layer_rows(io, g.unsqueeze(1), torch.float64) for io, g in zip(layers, grads, strict=True)]
    errors, norms = [], []
    for b, row in enumerate(identity.unsqueeze(-1) * cotangents):
        truth = iter(gradients(outputs, params, row, retain_graph=True))
        for io, parts in zip(layers, found, strict=True):
            own = list(io.layer.params.values())
            exact = torch.cat([next(truth).double().flatten() for _ in own])
            errors.append((torch.cat([_row(parts[id(param)], b) for param in own]) - exact).norm())
            norms.append(exact.norm())
    tolerance = max(torch.finfo(dtype).eps for dtype in (outputs.dtype, *(io.dtype for io in layers))) ** 0.5
    error, norm = (torch.stack(values).view(len(outputs), -1).cpu() for values in (errors, norms))
    agree, conclusive = (error <= tolerance * norm).all(0), (norm > 0).all(0)
    return [bool(right) if sure or not right else None for right, sure in zip(agree, conclusive, strict=True)]


def _row(part: OuterProduct | Tensor, b: int) -> Tensor:
    return part[b] if isinstance(part, Tensor) else torch.outer(part.G[b, 0], part.X[b]).flatten()


def _products(G: Tensor, X: Tensor) -> Tensor:
    """Return GX, (B, d, out, T) and (B, T, in) to (B, d, out, in), with the longer of out and in last for speed."""
    if G.shape[2] > X.shape[2]:
        return (X.mT.unsqueeze(1) @ G.mT).mT
    return (G.flatten(1, 2) @ X).unflatten(1, G.shape[1:3])
