"""What happens around the training step: checkpoints, progress, TensorBoard, summary."""

from lightning_modules.callbacks.checkpoint import AtomicCheckpointIO, StreamCheckpoint
from lightning_modules.callbacks.progress import OnlineProgressBar
from lightning_modules.callbacks.summary import RunSummary
from lightning_modules.callbacks.tensorboard import TensorBoardPage

__all__ = ["AtomicCheckpointIO", "OnlineProgressBar", "RunSummary", "StreamCheckpoint", "TensorBoardPage"]
