"""Checkpoints that a kill cannot spoil."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from ..online import OnlineModule
from ..resume import CheckpointError

LAST = "last.ckpt"


class AtomicCheckpointIO(CheckpointIO):
    """Writes to a temporary file in the same folder, syncs, and renames; loads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint so that ``path`` always holds a complete one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CheckpointError: If the file is missing, damaged, or holds anything but tensors and plain values.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"ckpt_path: there is no checkpoint {path}")
        try:
            checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # torch raises anything from EOFError to UnpicklingError on a damaged file
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"ckpt_path: {path} is damaged or not a checkpoint of filtune ({reason})") from error
        if not isinstance(checkpoint, dict) or "filtune" not in checkpoint:
            raise CheckpointError(f"ckpt_path: {path} is not a checkpoint of filtune")
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


class StreamCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` up to date: every so many steps, and at the end of each epoch.

    Args:
        folder: Where ``last.ckpt`` goes.
        every: Steps between two checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        if every < 1:
            raise ValueError(f"run.save_interval: must be at least 1, got {every}")
        self.path, self.every = folder / LAST, every
        self._due = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every so many steps, but not between a batch and the validation that follows it.

        The trainer does not make up for a validation that a kill has cut off after the batch was counted. The
        checkpoint is then made after the next batch, or at the end of the epoch.
        """
        self._due = self._due or trainer.global_step % self.every == 0
        if self._due and not trainer.is_last_batch and (batch_idx + 1) % (trainer.val_check_batch or math.inf) != 0:
            self._save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the end of an epoch, after its validation."""
        self._save(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say how to go on with a run that was stopped."""
        if trainer.is_global_zero and trainer.global_step and self.path.exists():
            print(
                f"\nstopped at step {trainer.global_step}; the same command with --ckpt_path last goes on from the "
                f"last checkpoint, {self.path}",
                file=sys.stderr,
            )

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, OnlineModule)
        self._due = False
        pl_module.before_checkpoint()
        for logger in trainer.loggers:
            if hasattr(logger, "experiment"):
                logger.experiment.flush()
        trainer.save_checkpoint(self.path)
