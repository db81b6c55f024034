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
    result of the run would be that of a model which has not seen them. Nor does an epoch that
    ``check_val_every_n_epoch`` passes over end the run without one: a last batch and the step ``max_steps`` are
    validated before the checkpoint is written; an end that is not known before it comes, as of ``max_time``, after it.

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
        self._validated = -1  # after how many steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the number, once the data are known."""
        if stage != "fit" or self.is_chosen or trainer.fast_dev_run:
            return
        data, held_out = trainer.datamodule, trainer.datamodule.validation
        rows = limited(len(data.part.rows), data.batch_size, trainer.limit_train_batches)
        validated = 0 if held_out is None else len(held_out.rows)
        validated = limited(validated, data.val_batch_size, trainer.limit_val_batches)
        fitting = min(max(SHARE * rows // validated, 1), MOST) if validated and trainer.max_epochs == 1 else 1
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
        if of_epoch and (ends or (trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs)):
            trainer.check_val_every_n_epoch = 1
        if trainer.is_last_batch:
            trainer.val_check_batch = math.inf
        elif ends or (self.count > 1 and self._is_due(trainer, index)):
            trainer.val_check_batch = number
        else:
            trainer.val_check_batch = math.inf if self.count > 1 else self._interval

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record that the model has been validated as it is."""
        self._validated = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the model that an unforeseen end has left, before the summary is written."""
        has_samples = trainer.enable_validation and trainer.datamodule.validation is not None
        if has_samples and self._validated != trainer.global_step:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def _is_due(self, trainer: pl.Trainer, index: int) -> bool:
        """Return whether one of the validations, evenly spread, is that after a batch of this pass."""
        batches = trainer.num_training_batches
        if 0 < trainer.max_steps < batches:
            batches = trainer.max_steps
        return (index + 1) * self.count // batches > index * self.count // batches


def limited(rows: int, batch_size: int, limit: float) -> int:
    """Return how many rows a limit of Lightning's leaves: of batches, or a share of them."""
    return min(rows, batch_size * limit if isinstance(limit, int) else int(rows * limit))
