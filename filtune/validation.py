"""The output of ``filtune validate``: the line of the data, and the scores."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer

from filtune.lightning_modules import OnlineModule


class Validation(Callback):
    """Callback that prints what was read of the data, and the scores by their names in the table of ``fit``."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the data, as ``fit`` does."""
        if trainer.is_global_zero:
            print(trainer.datamodule.report(), flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the scores in one line."""
        assert isinstance(pl_module, OnlineModule)
        if trainer.is_global_zero:
            print(format_scores(pl_module.last_validation), flush=True)


def format_scores(scores: Mapping[str, float]) -> str:
    """Return scores in one line: ``val accuracy 13.281, val loss 2.2973``."""
    named = {name.replace("/", " "): value for name, value in scores.items()}
    return ", ".join(f"{name} {value:.5g}" for name, value in sorted(named.items()))
