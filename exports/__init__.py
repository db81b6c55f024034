"""The trained model for others: the formats of PEFT, transformers and timm, and predictions.

The public names are imported when they are asked for: ``commands`` is read by ``filtune predict --help``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pooled import MeanPooledConfig, MeanPooledForSequenceClassification

__all__ = ["MeanPooledConfig", "MeanPooledForSequenceClassification"]


def __getattr__(name: str) -> Any:
    """Return the public class of that name."""
    if name in __all__:
        from . import pooled

        return getattr(pooled, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
