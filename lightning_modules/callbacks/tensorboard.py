"""The TensorBoard page of a run."""

from __future__ import annotations

import lightning.pytorch as pl
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

LAYOUT = {
    "prequential": {
        "online score": ["Multiline", ["online/accuracy", "online/pearson"]],
        "online loss, last 1000": ["Multiline", ["online/loss"]],
        "log loss": ["Multiline", ["online/nll", "online/moderated_nll"]],
        "calibration error": ["Multiline", ["online/ece", "online/moderated_ece"]],
    },
    "validation": {"scores": ["Multiline", ["val/(?!loss).*"]], "loss": ["Multiline", ["val/loss"]]},
    "filter": {
        "innovation": ["Multiline", ["stats/innovation_norm"]],
        "update": ["Multiline", ["stats/update_norm", "stats/gain_norm"]],
        "observation noise": ["Multiline", ["stats/noise_trace"]],
        "innovation squared, normalised": ["Margin", ["stats/nis", "stats/nis_low", "stats/nis_high"]],
        "state variance": ["Multiline", ["stats/variance_mean", "stats/variance_min"]],
    },
    "first order": {"gradient": ["Multiline", ["stats/grad_norm"]], "learning rate": ["Multiline", ["lr"]]},
}
"""Charts under CUSTOM SCALARS; each overlays all runs that are selected."""


class TensorBoardPage(pl.Callback):
    """Writes the composed configuration as text and the layout that overlays optimizers.

    Args:
        config: The composed configuration.
    """

    def __init__(self, config: dict) -> None:
        self.config = config

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them once."""
        if isinstance(trainer.logger, TensorBoardLogger):
            writer = trainer.logger.experiment
            writer.add_text("config", f"```yaml\n{yaml.safe_dump(self.config, sort_keys=False)}\n```", 0)
            writer.add_custom_scalars(LAYOUT)
