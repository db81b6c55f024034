"""What a training step is: batch -> likelihood -> optimizer.step -> online metrics; backbones and adapters."""

from .backbones import BackboneConfig, build_backbone
from .checks import check_precision
from .online import OnlineModule
from .resume import CheckpointError
from .schedules import Schedule

__all__ = ["BackboneConfig", "CheckpointError", "OnlineModule", "Schedule", "build_backbone", "check_precision"]
