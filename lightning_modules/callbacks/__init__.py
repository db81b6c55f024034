"""Callbacks around the training step: checkpoints, progress, loggers, summary."""

from .log_interval import LogInterval
from .stream import SameStream
from .summary import RunSummary, has_announced
from .training import OnlineProgressBar, ProgressLines, RunPage, StreamCheckpoint
from .validations import Validations

__all__ = [
    "LogInterval",
    "OnlineProgressBar",
    "ProgressLines",
    "RunPage",
    "RunSummary",
    "SameStream",
    "StreamCheckpoint",
    "Validations",
    "has_announced",
]
