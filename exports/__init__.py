"""A run's model for use elsewhere, in the formats of PEFT, transformers and timm, and its predictions."""

from .pooled import MeanPooledConfig, MeanPooledForSequenceClassification

__all__ = ["MeanPooledConfig", "MeanPooledForSequenceClassification"]
