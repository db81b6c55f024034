r"""The prior variance of the parameters, group by group.

Shapes: ``n`` state, ``T`` parameter tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PRIORS = ("constant", "uniform", "sensitivity")

USUAL = 0.01
"""Derivative of the outputs with respect to an entry, as most networks have it, for which a tensor gets p0."""

WIDEST = 10.0
"""Largest multiple of p0 that a tensor gets: one that hardly moves the outputs now may do so later."""

IDLE = 0.5
"""Multiple of p0 for a tensor that does not move the outputs at all."""


PROBE_SEED = 0
"""Seed of the random weights that stand in for an output layer of zeros."""


def check_prior(name: str, group: dict[str, Any]) -> None:
    """Check that a group can be part of a filter's state.

    Raises:
        ValueError: If its p0 is not positive, its p0_init unknown, or a parameter frozen or not real and floating.
    """
    if not 0 < group["p0"] < float("inf"):
        raise ValueError(f"{name}: p0 must be positive and finite, got {group['p0']}")
    if group["p0_init"] not in PRIORS:
        raise ValueError(f"{name}: p0_init must be one of {', '.join(PRIORS)}; got {group['p0_init']!r}")
    if not all(param.requires_grad for param in group["params"]):
        raise ValueError(f"{name}: params must all require grad; leave the frozen ones out")
    other = next((param.dtype for param in group["params"] if not param.dtype.is_floating_point), None)
    if other is not None:
        raise ValueError(f"{name}: params must be real and floating, got one in {other}")


def initial_variance(group: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """Return the prior variances of a group's parameters, flat: p0 (method 1) or U(0, p0) (method 2), never zero.

    With ``sensitivity`` they are p0 until :func:`sensitivity_factor` is known.
    """
    n, device = sum(param.numel() for param in group["params"]), group["params"][0].device
    if group["p0_init"] != "uniform":
        return torch.full((n,), group["p0"], dtype=dtype, device=device)
    uniform = 1 - torch.rand(n, dtype=dtype)
    return (group["p0"] * uniform).to(device)


def zero_matrices(head: Sequence[Tensor]) -> list[Tensor]:
    """Return the matrices among the head's trained parameters that are zero."""
    return [param for param in head if param.dim() > 1 and not bool(param.any())]


@contextmanager
def probed_output_layer(matrices: Sequence[Tensor]) -> Iterator[None]:
    r"""Fill matrices that are zero with random weights for a while.

    The weights are those of a fresh :class:`torch.nn.Linear`, U(-a, a) with a = 1 / sqrt(fan-in), from a seed of their
    own, so that they are the same on all ranks and no other random number changes. With W such a layer and z its input,

    .. math:: \mathbb E\,(\partial f_c / \partial\theta)^2 = \tfrac{a^2}{3} \lVert\partial z/\partial\theta\rVert^2

    whatever the coordinate c: the derivatives that a random head shows are an estimate of how much an entry moves the
    features, and its prior does not depend on whether the head itself starts at random or at zero.

    Args:
        matrices: The weights of an output layer that starts at zero.
    """
    generator = torch.Generator().manual_seed(PROBE_SEED)
    with torch.no_grad():
        for matrix in matrices:
            uniform = 2 * torch.rand(matrix.shape, generator=generator) - 1
            matrix.copy_(uniform / matrix[0].numel() ** 0.5)
    torch.clear_autocast_cache()  # it holds the zeros
    try:
        yield
    finally:
        with torch.no_grad():
            for matrix in matrices:
                matrix.zero_()
        torch.clear_autocast_cache()  # it holds the random weights


def combined_squares(squares: Tensor, probed: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the squared derivatives without the probe, of a tensor that has none those with it, (n,).

    Args:
        squares: Mean over the rows of H of its squared entries, (n,).
        probed: The same with the probe.
        sizes: Number of entries of every tensor.
    """
    pairs = zip(squares.split([*sizes]), probed.split([*sizes]), strict=True)
    return torch.cat([torch.where((own != 0).any(), own, other) for own, other in pairs])


def sensitivity_factor(
    squares: Tensor, groups: list[dict[str, Any]], head: Sequence[Tensor] = (), adapter_scale: float = 1.0
) -> Tensor:
    r"""Return the ratio of every parameter's prior variance to p0, (n,), where ``p0_init`` is ``sensitivity``.

    With h_t the root mean square, over the coordinates and the entries of the tensor t, of the derivative of a
    coordinate with respect to an entry:

    .. math:: p_t = p_0 \, \min((h_t / 0.01)^{-1/2}, 10), \quad p_t = p_0 / 2 \text{ where } h_t = 0

    Equal variances of the parameters leave all learning to the tensors next to the output, such as the head of a
    language model; equal variances of the outputs let tensors with little influence move far. The exponent is between
    the two. Entries are compared, not whole tensors, so that the size of a tensor makes no difference
    (docs/research/filtune.md). A tensor without influence on the first outputs, like lora_A beside a lora_B of zeros,
    gains influence as its partner grows. Adapters work best with p0 there, the branches of a ResNet, whose last scales
    start at zero, with a tenth of it: half of p0 harms neither.

    a_t is ``adapter_scale`` for a matrix that is zero and no part of the head, and 1 for all others. Such a matrix
    closes the branch of an adapter, as LoRA's B does. What it adds to frozen weights is all that the features can
    learn; by its sensitivity alone it has 0.2 % of the prior variance of MiniLM's outputs, 4 % of EfficientNet-lite0's,
    and the head has the rest.

    Args:
        squares: Mean over the rows of H of its squared entries, (n,).
        groups: The parameter groups.
        head: The parameters of the output layer.
        adapter_scale: Multiple of the variance of matrices that are zero and not among these.
    """
    factors = []
    for param, chosen in ((p, group["p0_init"] == "sensitivity") for group in groups for p in group["params"]):
        closed = param.dim() > 1 and not any(param is each for each in head) and not bool(param.any())
        own, squares = squares.split([param.numel(), len(squares) - param.numel()])
        h = own.mean().sqrt()
        a = adapter_scale if closed else 1.0
        factor = torch.where(h != 0, a * (h / USUAL).rsqrt().clamp_max(WIDEST), IDLE)
        factors.append(factor.expand(param.numel()) if chosen else torch.ones_like(own))
    return torch.cat(factors)
