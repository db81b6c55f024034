"""Number of steps between two points of the logged curves."""

from __future__ import annotations

import math

import lightning.pytorch as pl

POINTS = 30
"""Points that a curve has at least, as far as there are steps."""

INTERVALS = (50, 25, 10, 5, 2, 1)
"""Steps between two points, of which the longest that leaves ``POINTS`` is taken; 50 is Lightning's default."""


class LogInterval(pl.Callback):
    """Callback that chooses the steps between two points by the length of the run, where the user has not.

    With 50 a stream of 72 samples has a curve of two points. A point costs the metrics of the stream so far and a look
    for divergence, about as much as one or two steps. Where they come more often than every 50 steps, there are
    fewer than 2.5 times ``POINTS``, the largest ratio of two intervals.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set ``log_every_n_steps`` of the trainer."""
        trainer.log_every_n_steps = log_interval(trainer.estimated_stepping_batches)  # type: ignore[attr-defined]


def log_interval(steps: float) -> int:
    """Return the steps between two points of a run of so many steps; infinity where it has no end of its own."""
    return next((every for every in INTERVALS if math.isinf(steps) or steps >= POINTS * every), 1)
