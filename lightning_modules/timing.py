"""Time of a step: forward, backward and optimizer alone."""

from __future__ import annotations

import statistics
import time
from types import TracebackType

import torch
from typing_extensions import Self


class StepTimer:
    """Collects the seconds of each step; on CUDA by events, which are read only when asked for.

    Args:
        device: Where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._start: float | torch.cuda.Event = 0.0

    def __enter__(self) -> Self:
        """Start the clock."""
        self._start = self._event() if self._cuda else time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the clock."""
        if isinstance(self._start, float):
            self._seconds.append(time.perf_counter() - self._start)
        else:
            self._events.append((self._start, self._event()))

    def median(self) -> float | None:
        """Median seconds of a step; None before the first."""
        seconds = self._read()
        return statistics.median(seconds) if seconds else None

    def mean(self) -> float | None:
        """Mean seconds of a step; None before the first."""
        seconds = self._read()
        return statistics.fmean(seconds) if seconds else None

    def _read(self) -> list[float]:
        if self._events:
            torch.cuda.synchronize()
            self._seconds += [start.elapsed_time(end) / 1000 for start, end in self._events]
            self._events = []
        return self._seconds

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
