"""What happens around the training step: checkpoints, progress, TensorBoard, summary."""

from .summary import RunSummary
from .training import OnlineProgressBar, StreamCheckpoint, TensorBoardPage

__all__ = ["OnlineProgressBar", "RunSummary", "StreamCheckpoint", "TensorBoardPage"]
