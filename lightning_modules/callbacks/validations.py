"""When a run validates: often enough for a curve, and at the end of the stream."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl

MOST = 5
"""Validations of a run that names no number."""

SHARE = 2
"""Samples that these score together at most, in units of the samples of the stream."""


class Validations(pl.Callback):
    """Spreads validations over the stream, and adds one at its end where Lightning's intervals leave it out.

    An interval that does not divide the number of batches has its last validation before the last batches, and the
    result of the run would be that of a model which has not seen them.

    Args:
        count: Validations of a pass over the stream. By default up to ``MOST``, but no more than score ``SHARE`` times
            as many samples as the stream has, and one alone where there are several passes.
        is_chosen: Whether the user has chosen Lightning's ``val_check_interval``, which is then kept.

    Raises:
        ValueError: If the count is below 1, or both are given.
    """

    def __init__(self, count: int | None, is_chosen: bool) -> None:
        if count is not None and count < 1:
            raise ValueError(f"run.validations: must be at least 1, got {count}")
        if count is not None and is_chosen:
            raise ValueError("run.validations: trainer.val_check_interval is set as well; leave one of them out")
        self.count, self.is_chosen, self._interval = count, is_chosen, 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the interval, once the data are known."""
        whole = (trainer.limit_train_batches, trainer.limit_val_batches) == (1.0, 1.0)
        if stage != "fit" or self.is_chosen or trainer.fast_dev_run or not (whole or self.count):
            return
        sizes = trainer.datamodule.sizes
        batches = math.ceil(sizes["train_rows"] / trainer.datamodule.batch_size)
        count = self.count or (self._fitting(**sizes) if trainer.max_epochs == 1 else 1)
        interval = math.ceil(batches / count)
        if interval < batches:
            trainer.val_check_interval = (interval + 0.5) / batches  # a share, for each process has its own batches

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Let the trainer validate after the last batch, where it validates at all."""
        if trainer.is_last_batch and trainer.val_check_batch:
            self._interval, trainer.val_check_batch = trainer.val_check_batch, math.inf

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the interval for the next pass."""
        if self._interval:
            trainer.val_check_batch = self._interval

    @staticmethod
    def _fitting(train_rows: int, val_rows: int) -> int:
        """Return how many validations the stream has room for."""
        return min(max(SHARE * train_rows // max(val_rows, 1), 1), MOST)
