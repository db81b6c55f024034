"""Online fine-tuning of pre-trained models by Kalman filtering and natural gradients.

The public names are found when they are asked for, so that ``import filtune`` costs nothing: optimizers and likelihoods
(``from filtune import LoKO, Categorical``; torch alone is imported), data modules, and what is needed to train.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_HERE = Path(__file__).resolve().parent
if not (_HERE / "optimizers").is_dir():  # in a clone the folders stand beside this one; installed, inside it
    __path__.append(str(_HERE.parent))

_FACES = ("optimizers", "datamodules", "lightning_modules", "live")
"""The folders whose public names are filtune's own, in the order in which they are asked."""


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*_FACES, *(name for face in _FACES for name in import_module(f"{__name__}.{face}").__all__)})


def __getattr__(name: str) -> Any:
    """Return the public class or function of that name, importing no more than it takes."""
    if name == "__all__":
        return __dir__()
    if not name.startswith("_"):
        if find_spec(f"{__name__}.{name}"):  # ``from filtune import cli`` asks here before it imports the module
            return import_module(f"{__name__}.{name}")
        for face in _FACES:
            module = import_module(f"{__name__}.{face}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
