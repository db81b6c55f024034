"""Constants that are made once: a copy from the host would wait for a CUDA device, and each would be an operation."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a vector of these values; the same tensor every time, which nobody may change."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


SMALL = 128
"""Rows up to which an identity matrix is kept: at most 128 KiB each."""


def identity(rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the identity matrix, (rows, rows).

    A small one on a CPU is the same tensor every time, which nobody may change; another device makes one while the host
    goes on.
    """
    is_kept = device.type == "cpu" and rows <= SMALL
    return _kept_identity(rows, dtype) if is_kept else torch.eye(rows, dtype=dtype, device=device)


@lru_cache(maxsize=64)
def _kept_identity(rows: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.eye(rows, dtype=dtype, device="cpu")
