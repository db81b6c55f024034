"""What a run leaves for others to use: its model in the formats of PEFT, transformers and timm, and predictions."""

from .pooled import MeanPooledConfig, MeanPooledForSequenceClassification

__all__ = ["MeanPooledConfig", "MeanPooledForSequenceClassification"]
