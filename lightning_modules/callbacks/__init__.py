"""What happens around the training step: checkpoints, progress, TensorBoard, summary."""

from .checkpoint import AtomicCheckpointIO, StreamCheckpoint
from .progress import OnlineProgressBar
from .summary import RunSummary
from .tensorboard import TensorBoardPage

__all__ = ["AtomicCheckpointIO", "OnlineProgressBar", "RunSummary", "StreamCheckpoint", "TensorBoardPage"]
