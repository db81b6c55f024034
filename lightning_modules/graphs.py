"""Steps of a run as CUDA graphs: what a run must be for them, checked before it starts."""

from __future__ import annotations

import lightning.pytorch as pl
from filtune.optimizers import OnlineOptimizer
from filtune.optimizers.step_graphs import RECORDERS

from .optimization import Schedule

OPTION = "model.cuda_graphs"


def check_run(trainer: pl.Trainer, schedule: Schedule) -> None:
    """Refuse runs whose steps cannot be recorded.

    Args:
        trainer: The trainer, before anything runs.
        schedule: The schedule of the learning rate.

    Raises:
        ValueError: Naming the reason, and the remedy.
    """
    device = trainer.strategy.root_device.type
    if device not in RECORDERS:
        raise ValueError(f"{OPTION}: needs a CUDA device, this run is on {device}; set it to false")
    if trainer.world_size > 1:
        raise ValueError(
            f"{OPTION}: {trainer.world_size} processes tell each other their batch sizes at every step, which cannot "
            "be recorded; set it to false, or take --trainer.devices 1"
        )
    if not schedule.constant:
        raise ValueError(
            f"{OPTION}: a recorded step keeps its learning rate; set --model.schedule.decay none and "
            "--model.schedule.warmup 0, or this to false"
        )


def check_recordable(optimizer: OnlineOptimizer) -> None:
    """Refuse an optimizer of which no step can be recorded.

    Raises:
        ValueError: Naming the reason.
    """
    if reason := optimizer.unrecordable():
        raise ValueError(f"{OPTION}: {type(optimizer).__name__}: {reason}, or set it to false")
