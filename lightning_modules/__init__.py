"""What a training step is: batch -> likelihood -> optimizer.step -> online metrics; backbones and adapters.

The public names are imported when they are asked for: ``legacy`` and ``runs`` are read by commands that train nothing.
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

_MODULES = {
    "BackboneConfig": "backbones",
    "CheckpointError": "resume",
    "OnlineModule": "online",
    "Schedule": "schedules",
    "build_backbone": "backbones",
    "check_precision": "checks",
}

__all__ = ["BackboneConfig", "CheckpointError", "OnlineModule", "Schedule", "build_backbone", "check_precision"]


def __getattr__(name: str) -> Any:
    """Return the public class or function of that name."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
