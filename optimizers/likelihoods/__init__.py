"""The distribution of a target given the model's outputs: one likelihood per file, found when this is imported."""

import pkgutil
from importlib import import_module

from .base import REGISTRY, Innovation, Likelihood, Observation, likelihood_of
from .categorical import Categorical as Categorical
from .gaussian import Gaussian as Gaussian

for _module in pkgutil.iter_modules(__path__):
    import_module(f".{_module.name}", __name__)

_FOUND = {likelihood.__name__: likelihood for likelihood in REGISTRY.values()}
globals().update(_FOUND)

__all__ = ["Innovation", "Likelihood", "Observation", "likelihood_of", *_FOUND]
