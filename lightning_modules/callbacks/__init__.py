"""Callbacks around the training step: checkpoints, progress, loggers, summary."""

from .stream import SameStream
from .summary import RunSummary
from .training import OnlineProgressBar, ProgressLines, RunPage, StreamCheckpoint
from .validations import Validations

__all__ = [
    "OnlineProgressBar",
    "ProgressLines",
    "RunPage",
    "RunSummary",
    "SameStream",
    "StreamCheckpoint",
    "Validations",
]
