"""The progress bar."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from ..online import OnlineModule


class OnlineProgressBar(TQDMProgressBar):
    """A progress bar that shows how well the stream has been predicted so far."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Online score and windowed loss; read only when the bar is redrawn."""
        if not isinstance(pl_module, OnlineModule) or not trainer.training or not int(pl_module.online.samples):
            return {}
        figures = pl_module.online.compute()
        return {
            pl_module.online.score: f"{float(figures[f'online/{pl_module.online.score}']):.1f}",
            "loss": f"{float(figures['online/loss']):.3f}",
        }
