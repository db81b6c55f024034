"""What a training step is: batch -> likelihood -> optimizer.step -> online metrics; backbones and adapters."""

from lightning_modules.backbones import BackboneConfig, build_backbone
from lightning_modules.checks import check_precision
from lightning_modules.online import OnlineModule
from lightning_modules.resume import CheckpointError
from lightning_modules.schedules import Schedule

__all__ = ["BackboneConfig", "CheckpointError", "OnlineModule", "Schedule", "build_backbone", "check_precision"]
