"""What happens around the training step: checkpoints, progress, loggers, summary."""

from .stream import SameStream
from .summary import RunSummary
from .training import OnlineProgressBar, RunPage, StreamCheckpoint

__all__ = ["OnlineProgressBar", "RunPage", "RunSummary", "SameStream", "StreamCheckpoint"]
