"""Parameter groups by name, and a fingerprint of what is frozen."""

from __future__ import annotations

import re
import zlib
from typing import Any

import torch
from torch import nn


def group_parameters(model: nn.Module, options: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Trainable parameters in groups, one for each pattern and one for the rest.

    Args:
        model: The model.
        options: Options of each group by a regular expression searched in the parameters' names; the first
            pattern that matches a name takes it.

    Raises:
        ValueError: If nothing is trainable, a pattern is malformed, or one matches no parameter.
    """
    named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    if not named:
        raise ValueError("model.backbone: no parameter is trainable with this adapter")
    groups: dict[str, list[nn.Parameter]] = {pattern: [] for pattern in options}
    rest: list[nn.Parameter] = []
    for name, param in named:
        groups.get(_first_match(name, options), rest).append(param)
    empty = [pattern for pattern, params in groups.items() if not params]
    if empty:
        raise ValueError(
            f"model.param_groups: {empty[0]!r} matches no trainable parameter; names end like {named[0][0]!r}"
        )
    grouped: list[dict[str, Any]] = [{"params": params, **options[key]} for key, params in groups.items()]
    return ([{"params": rest}] if rest else []) + grouped


def _first_match(name: str, options: dict[str, Any]) -> str:
    try:
        return next((pattern for pattern in options if re.search(pattern, name)), "")
    except re.error as error:
        raise ValueError(f"model.param_groups: not a regular expression: {error}") from error


def frozen_fingerprint(model: nn.Module) -> int:
    """CRC-32 of all frozen parameters, to tell on resume whether the backbone is still the same."""
    checksum = 0
    for param in model.parameters():
        if not param.requires_grad:
            checksum = zlib.crc32(param.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
    return checksum
