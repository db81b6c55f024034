"""Steps whose operations are the same whatever the values: a CUDA graph replays what was recorded of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FIXED = ContextVar("fixed_steps", default=False)


def are_fixed() -> bool:
    """Return whether a step may not read from the device to decide what to do next, where it has the choice."""
    return _FIXED.get()


@contextmanager
def fixed_steps() -> Iterator[None]:
    """Let the steps within take a fixed number of iterations instead of asking whether they have converged."""
    token = _FIXED.set(True)
    try:
        yield
    finally:
        _FIXED.reset(token)
