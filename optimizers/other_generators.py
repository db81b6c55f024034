"""Random numbers that a class of another package draws from Python or NumPy, which torch does not seed."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any


def draws_elsewhere(cls: type) -> bool:
    """Return whether a class's module, or that of a base, has imported one of the two."""
    modules = [sys.modules.get(base.__module__) for base in cls.__mro__ if not base.__module__.startswith("torch.")]
    found = [value for module in modules if module is not None for value in vars(module).values()]
    return any(value is random or value is sys.modules.get("numpy", random) for value in found)


def seeded(cls: type, seed: int) -> Any:
    """Return a context in which a class draws the same numbers whatever was drawn before; others are left alone."""
    return _both_seeded(seed % 2**32) if draws_elsewhere(cls) else nullcontext()


@contextmanager
def _both_seeded(seed: int) -> Iterator[None]:
    """Seed both generators for a while."""
    numpy: Any = sys.modules.get("numpy")
    before = random.getstate(), numpy.random.get_state() if numpy else None
    random.seed(seed)
    if numpy:
        numpy.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        if numpy:
            numpy.random.set_state(before[1])
