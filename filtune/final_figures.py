"""Writes a run's figures to TensorBoard when it ends."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from filtune.lightning_modules import OnlineModule
from filtune.reports.final_figures import confusion_figure, reliability_diagram

LEAST = 100
"""Samples from which on these figures show more than chance."""


class FinalFigures(pl.Callback):
    """Writes the reliability diagram of the online predictions and the confusion matrix of the last validation."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them, for a stream of some length."""
        assert isinstance(pl_module, OnlineModule)
        writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.interrupted or not trainer.is_global_zero or not writers or int(pl_module.online.samples) < LEAST:
            return
        online, figures = pl_module.online, {}
        if online.scores is not None and online.predictive is not None and online.scores.samples():
            curves = {"softmax": online.scores.bins}
            if online.predictive.samples():
                curves["posterior predictive"] = online.predictive.bins
            figures["online/reliability"] = reliability_diagram(curves)
        if pl_module.last_confusion is not None:
            figures["val/confusion"] = confusion_figure(pl_module.last_confusion, pl_module.task.classes)
        for writer in writers:
            for name, pixels in figures.items():
                writer.add_image(name, pixels, trainer.global_step, dataformats="HWC")
