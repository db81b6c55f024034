"""Signals during training: every process of the run stops, or is requeued, after the same step.

The processes must ask each other for that, which waits for the slowest of them and for the device. They do so about
every ``PERIOD`` seconds and not after every step: after how many steps is agreed on each time, for their clocks differ.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from .. import signals

PERIOD = 1.0
"""Seconds between two exchanges of the processes of a run."""

MOST_STEPS = 100
"""Steps between two exchanges at most, for steps may become slower."""


def agreed_signal(trainer: pl.Trainer) -> int:
    """Return the signal that has come to any process of the run, 0 if none; to be called by all of them."""
    return _largest(trainer, signals.pending())[0]


def _largest(trainer: pl.Trainer, *own: int) -> list[int]:
    """Return the largest of each number over the processes of the run."""
    if trainer.world_size == 1:
        return list(own)
    numbers = torch.tensor(own, device=trainer.strategy.root_device)
    return trainer.strategy.reduce(numbers, reduce_op="max").tolist()  # type: ignore[union-attr]


class StopRequest:
    """The signals of one training run.

    SIGTERM, SIGINT and SIGHUP stop it. On SLURM with ``auto_requeue`` Lightning's own handler of SIGUSR1 saves a
    checkpoint and requeues the job; it is called after a step, for in the middle of one the state is not consistent.
    """

    def __init__(self) -> None:
        self._requeue: Callable[[int, Any], Any] | None = None
        self._requeue_number = 0
        self._agreed = (0, 0)
        self._steps, self._interval, self._since = 0, 1, 0.0

    def start(self, trainer: pl.Trainer) -> None:
        """Keep the signals from now on until a step is complete; called when Lightning has installed its handlers."""
        signals.install()
        signals.defer(True)
        self._steps, self._interval, self._since = 0, 1, time.monotonic()
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

    def has_come(self, trainer: pl.Trainer, ask: bool = False) -> bool:
        """Return whether a signal has come to any process of the run; to be called by all of them after each step.

        Args:
            trainer: The trainer.
            ask: Whether the processes ask each other now, and not only when it is time; the same on all of them.
        """
        self._steps += 1
        if any(self._agreed) or not (ask or self._steps >= self._interval):
            return any(self._agreed)
        now = time.monotonic()
        microseconds = int(1e6 * (now - self._since) / self._steps)
        stop, requeue, slowest = _largest(trainer, signals.pending(), self._requeue_number, microseconds)
        self._agreed = stop, requeue
        if trainer.world_size > 1:
            self._interval = max(1, min(MOST_STEPS, int(1e6 * PERIOD / max(1, slowest))))
        self._steps, self._since = 0, now
        return any(self._agreed)

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
