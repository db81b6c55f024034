"""Rows that the parameters of an output layer gain at their ends, when a model takes new classes while it learns.

The state that an optimizer then has is that of one which has had the larger layer from the beginning, with the outputs
of the classes not yet seen left out of the likelihood. No derivative with respect to their rows was ever other than
zero, from which follows what the state knows of them (docs/live.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def kept_positions(before: Sequence[torch.Size], after: Sequence[torch.Size]) -> Tensor:
    """Return where the entries of a state are after some of its tensors have gained rows, (n before,).

    Args:
        before: Shapes of the tensors, in the order of the state.
        after: Shapes of the same tensors now.
    """
    starts, start = [], 0
    for old, new in zip(before, after, strict=True):
        starts.append(torch.arange(math.prod(old)) + start)  # rows are appended, so that the old entries come first
        start += math.prod(new)
    return torch.cat(starts)


def padded(values: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """Return a tensor whose first dimension has grown to a size, its new entries filled."""
    rows = values.new_full((size - len(values), *values.shape[1:]), fill)
    return torch.cat([values, rows])


def grow_elementwise(
    state: dict[str, object], old: torch.Size, param: Tensor, fill: Mapping[str, float], name: str
) -> dict[str, object]:
    """Return the state of a parameter with rows for those it has gained, as of a gradient that was always zero.

    Args:
        state: The state by name: tensors shaped like the parameter, and numbers.
        old: Shape of the parameter before.
        param: The parameter.
        fill: Values of new entries, where they are not zero.
        name: The optimizer, for the message.

    Raises:
        ValueError: If there is something else in the state, of which it is not known what it becomes.
    """
    grown: dict[str, object] = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == old and value.dim():
            grown[key] = padded(value, len(param), fill.get(key, 0.0))
        elif value is None or isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
            grown[key] = value
        else:
            raise ValueError(f"{name}: cannot take new classes while it runs, for its {key} is no element-wise state")
    return grown
