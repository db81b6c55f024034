"""Callback that writes a run's figures to TensorBoard when it ends."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from filtune.lightning_modules import OnlineModule
from filtune.reports.final_figures import confusion_figure, reliability_diagram

LEAST = 100
"""Samples from which on these figures show more than chance."""


def write_figures(trainer: pl.Trainer, module: OnlineModule) -> None:
    """Write the reliability diagram of the online predictions and the confusion matrix of the last validation.

    Args:
        trainer: The trainer, whose TensorBoard loggers get them.
        module: The module, of a stream of at least ``LEAST`` samples.
    """
    writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    if not writers or int(module.online.samples) < LEAST:
        return
    online, figures = module.online, {}
    if online.scores is not None and online.predictive is not None and online.scores.samples():
        curves = {"softmax": online.scores.bins}
        if online.predictive.samples():
            curves["posterior predictive"] = online.predictive.bins
        figures["online/reliability"] = reliability_diagram(curves)
    if module.last_confusion is not None:
        figures["val/confusion"] = confusion_figure(module.last_confusion, module.task.classes)
    for writer in writers:
        for name, pixels in figures.items():
            writer.add_image(name, pixels, trainer.global_step, dataformats="HWC")
