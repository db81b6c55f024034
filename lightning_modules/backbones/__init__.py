"""Backbones by name, their adapters and their heads."""

from .build import build_backbone
from .config import BackboneConfig

__all__ = ["BackboneConfig", "build_backbone"]
