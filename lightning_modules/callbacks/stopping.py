"""Signals during training: every process of the run stops, or is requeued, after the same step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from .. import signals


class StopRequest:
    """The signals of one training run.

    SIGTERM, SIGINT and SIGHUP stop it. On SLURM with ``auto_requeue`` Lightning's own handler of SIGUSR1 saves a
    checkpoint and requeues the job; it is called after a step, for in the middle of one the state is not consistent.
    """

    def __init__(self) -> None:
        self._requeue: Callable[[int, Any], Any] | None = None
        self._requeue_number = 0
        self._agreed = (0, 0)

    def start(self, trainer: pl.Trainer) -> None:
        """Keep the signals from now on until a step is complete; called when Lightning has installed its handlers."""
        signals.install()
        signals.defer(True)
        environment = trainer._accelerator_connector.cluster_environment  # Lightning has no public way to it
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            number = environment.requeue_signal or signal.SIGUSR1
            handler = signal.getsignal(number)
            if callable(handler):
                self._requeue = handler
                signal.signal(number, self._note)  # Lightning restores the one that was there before its own

    def end(self) -> None:
        """Let signals stop the command at once again."""
        signals.defer(False)

    def has_come(self, trainer: pl.Trainer) -> bool:
        """Return whether a signal has come to any process of the run; to be called by all of them."""
        own = (signals.pending(), self._requeue_number)
        if trainer.world_size > 1:
            largest = trainer.strategy.reduce(torch.tensor(own, device=trainer.strategy.root_device), reduce_op="max")
            own = tuple(largest.tolist())
        self._agreed = own
        return any(own)

    def act(self) -> None:
        """Requeue the job or stop, now that a checkpoint has been saved.

        Raises:
            Stopped: If the run is to stop.
        """
        stop, requeue = self._agreed
        self._agreed, self._requeue_number = (0, 0), 0
        if requeue and self._requeue is not None:
            self._requeue(requeue, None)
        if stop:
            raise signals.Stopped(stop)

    def stop_now(self, trainer: pl.Trainer) -> None:
        """Stop without a checkpoint, where the run is of one process: as between two batches of a validation.

        Raises:
            Stopped: If the run is to stop.
        """
        if trainer.world_size == 1 and signals.pending():
            raise signals.Stopped(signals.pending())

    def _note(self, number: int, frame: Any) -> None:
        self._requeue_number = number
