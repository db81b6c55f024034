"""Learning from a stream that has no end, in Python: predict, learn, late labels, new classes, save and load.

The public name is imported when it is asked for, for it needs the backbones and their libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .learner import OnlineLearner

__all__ = ["OnlineLearner"]


def __getattr__(name: str) -> Any:
    """Return a public name from the module that defines it."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.learner"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
