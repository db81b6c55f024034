"""Constants on a device, copied there once: a copy from the host makes it wait for a CUDA device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a vector of these values; the same tensor every time, which nobody may change."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
