"""What a training step is: batch -> likelihood -> optimizer.step -> online metrics; backbones and adapters.

The public names are imported when they are asked for, so that a module of this folder that needs no torch, such as
``legacy`` or ``atomic``, costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones import BackboneConfig, build_backbone
    from .checks import check_precision
    from .online import OnlineModule
    from .resume import CheckpointError
    from .schedules import Schedule

__all__ = ["BackboneConfig", "CheckpointError", "OnlineModule", "Schedule", "build_backbone", "check_precision"]

_MODULES = {
    "BackboneConfig": "backbones",
    "CheckpointError": "resume",
    "OnlineModule": "online",
    "Schedule": "schedules",
    "build_backbone": "backbones",
    "check_precision": "checks",
}


def __getattr__(name: str) -> Any:
    """Return a public name from the module that defines it."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
