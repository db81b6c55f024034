"""The prior variance of the parameters, group by group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_prior(name: str, group: dict[str, Any]) -> None:
    """Refuse a group that cannot be part of a filter's state.

    Raises:
        ValueError: If its p0 is not positive, its p0_init unknown, or a parameter frozen or not real and floating.
    """
    if not 0 < group["p0"] < float("inf"):
        raise ValueError(f"{name}: p0 must be positive and finite, got {group['p0']}")
    if group["p0_init"] not in ("constant", "uniform"):
        raise ValueError(f"{name}: p0_init must be constant or uniform, got {group['p0_init']!r}")
    if not all(param.requires_grad for param in group["params"]):
        raise ValueError(f"{name}: params must all require grad; leave the frozen ones out")
    other = next((param.dtype for param in group["params"] if not param.dtype.is_floating_point), None)
    if other is not None:
        raise ValueError(f"{name}: params must be real and floating, got one in {other}")


def initial_variance(group: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """p0 of a group's parameters, flat: the constant p0 (method 1) or U(0, p0) (method 2), never zero."""
    n, device = sum(param.numel() for param in group["params"]), group["params"][0].device
    if group["p0_init"] == "constant":
        return torch.full((n,), group["p0"], dtype=dtype, device=device)
    uniform = 1 - torch.rand(n, dtype=dtype)
    return (group["p0"] * uniform).to(device)
