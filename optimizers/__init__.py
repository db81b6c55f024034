"""Optimizers in plain torch, each usable in anyone's own loop.

Every module of this folder is imported here, so that a new optimizer, likelihood or part of one is a new file and
nothing else. The public names are the classes found: optimizers, likelihoods, and what is needed to write one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from .base import FirstOrder as FirstOrder
from .base import OnlineOptimizer as OnlineOptimizer
from .likelihoods.base import Likelihood as Likelihood
from .likelihoods.base import Observation as Observation

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


def _public(base: Any) -> Iterator[type[Any]]:
    """Return the subclasses that are defined here and are neither private nor a base of others (``abstract``)."""
    for cls in base.__subclasses__():
        here = cls.__module__.startswith(f"{__name__}.")
        if here and not cls.__name__.startswith("_") and not vars(cls).get("abstract", False):
            yield cls
        yield from _public(cls)


_FOUND: dict[str, Any] = {cls.__name__: cls for base in (OnlineOptimizer, Likelihood) for cls in _public(base)}

__all__ = sorted(["FirstOrder", "Likelihood", "Observation", "OnlineOptimizer", *_FOUND])


def __getattr__(name: str) -> Any:
    """Return the public class of that name."""
    try:
        return _FOUND[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return __all__
