"""What a training step is: batch -> likelihood -> optimizer.step -> online metrics; backbones and adapters."""

from .backbones import Backbone, BackboneConfig, build_backbone
from .checkpoints import AtomicCheckpointIO, CheckpointError
from .monitoring import check_precision
from .online import OnlineModule
from .optimization import Schedule

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
