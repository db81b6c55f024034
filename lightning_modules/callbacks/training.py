"""Callbacks of a training run: regular checkpoints, the progress bar, and the TensorBoard page."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from ..online import OnlineModule
from ..run_files import keep_event_sizes
from ..runs import LAST
from ..tensorboard import LAYOUT
from .stopping import StopRequest


class StreamCheckpoint(Checkpoint):
    """Callback that writes ``last.ckpt`` every so many steps, after each epoch, and when a signal stops the run.

    Args:
        folder: Where ``last.ckpt`` goes.
        every: Steps between two checkpoints.

    Raises:
        ValueError: If ``every`` is below 1.
    """

    def __init__(self, folder: Path, every: int) -> None:
        if every < 1:
            raise ValueError(f"run.save_interval: must be at least 1, got {every}")
        self.path, self.every = folder / LAST, every
        self._due = False
        self._stop = StopRequest()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep signals until a step is complete."""
        self._stop.start(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every so many steps, but not between a batch and the validation that follows it.

        The trainer does not make up for a validation that a kill has cut off after the batch was counted. The
        checkpoint is then made after that validation, or at the end of the epoch.
        """
        regular = trainer.global_step % self.every == 0
        stop = self._stop.has_come(trainer, ask=regular)
        self._due = self._due or stop or regular
        of_epoch = trainer.check_val_every_n_epoch is not None  # otherwise the batches of all epochs are counted
        batches = 1 + (batch_idx if of_epoch else trainer.fit_loop.total_batch_idx)
        if self._due and not trainer.is_last_batch and batches % (trainer.val_check_batch or math.inf) != 0:
            self._save(trainer, pl_module)
            self._stop.act()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop within a validation; the run resumes from the checkpoint before it."""
        if trainer.state.fn == "fit":
            self._stop.stop_now(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after a validation within an epoch, where that is due."""
        if trainer.state.fn == "fit" and self._due and not trainer.is_last_batch:
            self._save(trainer, pl_module)
            self._stop.act()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the end of an epoch, after its validation."""
        self._stop.has_come(trainer, ask=True)
        self._save(trainer, pl_module)
        self._stop.act()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let signals stop the command at once again."""
        self._stop.end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Print how to resume a run that was stopped."""
        self._stop.end()
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
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()  # its save() writes hyper-parameters as well, which are not complete
            else:
                logger.save()
        if trainer.is_global_zero:
            keep_event_sizes(self.path.parents[1])
        trainer.save_checkpoint(self.path)


class OnlineProgressBar(TQDMProgressBar):
    """Progress bar with the online score and loss of the stream so far."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the online score and the windowed loss; read only when the bar is redrawn."""
        return _scores_so_far(trainer, pl_module)


class ProgressLines(ProgressBar):
    """The same where the output is no terminal but a file or a pipe: a line a minute.

    Args:
        period: Seconds between two lines.
    """

    def __init__(self, period: float = 60.0) -> None:
        super().__init__()
        self.period, self._start, self._began, self._last, self._first = period, 0.0, 0.0, 0.0, 0
        self._enabled = True

    def disable(self) -> None:
        """Print nothing, as the trainer asks of all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = self._last = time.monotonic()
        self._first = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of a validation, which is another's."""
        self._began = time.monotonic()
        self._last = self._last if trainer.state.fn == "fit" else self._began

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line where the last one is a minute old."""
        if (now := self._due()) is None:
            return
        total, made = sum(trainer.num_val_batches), batch_idx + 1
        left = (total - made) * (now - self._began) / made
        print(f"validation: batch {made:,} of {int(total):,}, {left / 60:.0f} min left", flush=True)

    def _due(self) -> float | None:
        """Return the time if a line is due, and mark it as written."""
        now = time.monotonic()
        if not self._enabled or now - self._last < self.period:
            return None
        self._last = now
        return now

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Print a line where the last one is a minute old."""
        if (now := self._due()) is None:
            return
        step = trainer.global_step
        total, made = trainer.estimated_stepping_batches, step - self._first
        said = [f"{name} {value}" for name, value in _scores_so_far(trainer, pl_module).items()]
        if math.isfinite(total) and made:
            left = max(total - step, 0) * (now - self._start) / made
            said = [f"step {step:,} of {int(total):,}", *said, f"{left / 60:.0f} min left"]
        else:
            said = [f"step {step:,}", *said]
        print(", ".join(said), flush=True)


def _scores_so_far(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, str]:
    """Return the online score and the windowed loss by name; reads them from the device."""
    if not isinstance(pl_module, OnlineModule) or not trainer.training or not int(pl_module.online.samples):
        return {}
    score, figures = pl_module.online.score, pl_module.online.compute()
    return {score: f"{float(figures[f'online/{score}']):.1f}", "loss": f"{float(figures['online/loss']):.3f}"}


class RunPage(pl.Callback):
    """Callback that writes the configuration to every logger, and the layout that overlays optimizers to TensorBoard.

    Args:
        config: The composed configuration.
        hyperparameters: Whether loggers other than TensorBoard's get it, as hyper-parameters.
    """

    def __init__(self, config: dict[str, Any], hyperparameters: bool = True) -> None:
        self.config, self.hyperparameters = config, hyperparameters

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them once."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer = logger.experiment
                writer.add_text("config", f"```yaml\n{yaml.safe_dump(self.config, sort_keys=False)}\n```", 0)
                writer.add_custom_scalars(LAYOUT)
            elif self.hyperparameters:
                logger.log_hyperparams(self.config)
