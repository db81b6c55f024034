"""Training steps (batch -> likelihood -> optimizer.step -> online metrics), backbones and adapters.

The public names are imported when they are asked for, so that a module of this folder that needs no torch, such as
``legacy`` or ``runs``, costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones import Backbone, BackboneConfig, build_backbone
    from .checkpoints import AtomicCheckpointIO
    from .monitoring import check_precision
    from .online import OnlineModule
    from .optimization import Schedule
    from .runs import CheckpointError

_MODULES = {
    "AtomicCheckpointIO": "checkpoints",
    "Backbone": "backbones",
    "BackboneConfig": "backbones",
    "CheckpointError": "runs",
    "OnlineModule": "online",
    "Schedule": "optimization",
    "build_backbone": "backbones",
    "check_precision": "monitoring",
}

__all__ = [
    "AtomicCheckpointIO",
    "Backbone",
    "BackboneConfig",
    "CheckpointError",
    "OnlineModule",
    "Schedule",
    "build_backbone",
    "check_precision",
]


def __getattr__(name: str) -> Any:
    """Return a public name from the module that defines it."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
