"""The callback that writes a run's configuration into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from filtune.lightning_modules.atomic import atomic_write
from filtune.lightning_modules.integrity import sealed_yaml
from filtune.lightning_modules.launch import refused_together


class SaveConfig(SaveConfigCallback):
    """Callback that writes ``config.yaml``; over that of a resumed run only once its checkpoint has been accepted.

    Args:
        folder: The run's folder, whatever the loggers have.
        refusal: Why this process cannot have the folder; then all processes of the run stop.
        arguments: Those of Lightning's callback.
        options: Its options.
    """

    def __init__(self, *arguments: Any, folder: Path, refusal: Exception | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.path, self._refusal = folder / self.config_filename, refusal

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file of a new run.

        Raises:
            Exception: The refusal, on all processes, if one of them was refused the folder.
        """
        with refused_together():
            if self._refusal is not None:
                raise self._refusal
        if not trainer.strategy.broadcast(self.path.exists()):
            self._write(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of a resumed run, also of one that is complete: its baselines take theirs from it."""
        if not self.already_saved:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            with atomic_write(self.path) as file:
                file.write(sealed_yaml(self.parser.dump(self.config, skip_none=False)))
        self.already_saved = True
