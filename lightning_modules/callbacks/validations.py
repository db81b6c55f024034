"""Times of the validations of a run: often enough for a curve, and at its end."""

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
    result of the run would be that of a model which has not seen them. The end of the run is its last batch, or the
    step ``max_steps``; when ``max_time`` is over is not known before.

    It comes first among the callbacks: ``EarlyStopping`` asks in its ``setup`` whether there are several validations.

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
        self.asked, self.is_chosen, self.count = count, is_chosen, 1
        self._interval: float | None = None  # Lightning's own, which is none for a time
        self._is_known = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the number, once the data are known."""
        if stage != "fit" or self.is_chosen or trainer.fast_dev_run:
            return
        data, whole = trainer.datamodule, (trainer.limit_train_batches, trainer.limit_val_batches) == (1.0, 1.0)
        rows, validated = len(data.part.rows), 0 if data.validation is None else len(data.validation.rows)
        fitting = min(max(SHARE * rows // max(validated, 1), 1), MOST) if whole and trainer.max_epochs == 1 else 1
        self.count = min(self.asked or fitting, math.ceil(rows / (data.batch_size * trainer.world_size)))
        if self.count > 1:
            trainer.val_check_interval = 0.5  # several; after which batches is set before each of them

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Set whether a validation follows: the trainer validates where the number of batches is a multiple."""
        if not self._is_known:
            self._interval, self._is_known = trainer.val_check_batch, True
        if self._interval == 0:  # there is nothing to validate on
            return
        of_epoch = trainer.check_val_every_n_epoch is not None
        number = 1 + (index if of_epoch else trainer.fit_loop.total_batch_idx)
        ends = trainer.global_step + 1 == trainer.max_steps
        if trainer.is_last_batch:
            trainer.val_check_batch = math.inf
        elif ends or (self.count > 1 and self._is_due(trainer, index)):
            trainer.val_check_batch = number
        else:
            trainer.val_check_batch = math.inf if self.count > 1 else self._interval

    def _is_due(self, trainer: pl.Trainer, index: int) -> bool:
        """Return whether one of the validations, evenly spread, is that after a batch of this pass."""
        batches = trainer.num_training_batches
        if 0 < trainer.max_steps < batches:
            batches = trainer.max_steps
        return (index + 1) * self.count // batches > index * self.count // batches
