"""Backbones by name, their adapters and their heads."""

from lightning_modules.backbones.build import build_backbone
from lightning_modules.backbones.config import BackboneConfig

__all__ = ["BackboneConfig", "build_backbone"]
