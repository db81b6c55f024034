"""Backbones by name, their adapters and their heads."""

from .base import Backbone, BackboneConfig
from .build import build_backbone

__all__ = ["Backbone", "BackboneConfig", "build_backbone"]
