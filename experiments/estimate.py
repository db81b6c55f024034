"""Duration of runs: from records of similar runs, else from the size of the model and the speed of the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from filtune.lightning_modules.defaults import import_class

from .composition import Config, lookup, metadata

START = 15.0
"""Seconds that a run takes to start."""


@dataclass(frozen=True)
class RunSize:
    """The length of a run.

    Attributes:
        samples: Length of the stream.
        steps: Steps of all epochs.
    """

    samples: int
    steps: int


def run_size(config: Config, task: str) -> RunSize | None:
    """Return samples and steps of a run; None where they are not known."""
    rows = metadata("task", task).get("train_samples")
    names = ("data.max_samples", "data.batch_size", "trainer.max_epochs", "trainer.max_steps")
    values = [lookup(config, name) for name in names]
    if not all(value is None or isinstance(value, int) for value in values):
        return None  # the run refuses it
    limit, batch, epochs, most = values
    if rows is None and limit is None:
        return None
    samples = min(n for n in (rows, limit) if n is not None)
    per_epoch = math.ceil(samples / max(1, batch or 1))
    epochs, most = epochs or 1, most or -1
    limits = [limit for limit in (per_epoch * epochs, most) if limit >= 0]  # -1: until the other one ends it
    return RunSize(samples, min(limits)) if limits else None


class Estimator:
    """Estimator of the duration of runs, from records of similar ones.

    Args:
        records: Records of finished runs, of this machine.
    """

    def __init__(self, records: list[dict[str, Any]] | None = None) -> None:
        self._measured: dict[tuple, list[float]] = {}
        for record in records or []:
            self.learn(record)

    def learn(self, record: dict[str, Any]) -> None:
        """Take a finished run into account."""
        wall, steps = record["times"].get("wall_seconds"), record.get("steps")
        if wall and steps:
            for kind in _kinds(record["config"], record["task"], record["backbone"]):
                self._measured.setdefault(kind, []).append(wall / steps)

    def seconds(self, config: Config, task: str, backbone: str) -> float | None:
        """Return the seconds of a run; None where nothing is known about it."""
        found = run_size(config, task)
        if found is None:
            return None
        for kind in _kinds(config, task, backbone):
            if kind in self._measured:
                return START + found.steps * median(self._measured[kind])
        gflops = metadata("backbone", backbone).get("gflops")
        if gflops is None or "measurement" in config:
            return None
        batch = max(1, lookup(config, "data.batch_size") or 1)
        passes = 3 * gflops * batch / self.speed
        return START + found.steps * max(passes, 0.003) * _cost(config, task)

    @cached_property
    def speed(self) -> float:
        """Half of the GFLOP/s of this machine in a product of matrices, which is what a model reaches."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        matrix = torch.ones(1024, 1024, device=device)
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            (matrix @ matrix).sum().item()
            best = min(best, time.perf_counter() - start)
        return 0.5 * 2 * 1.024**3 / best


def _kinds(config: Config, task: str, backbone: str) -> list[tuple]:
    """Return the properties by which runs take equally long, the closest first."""
    optimizer = str(lookup(config, "optimizer.class_path"))
    if measurement := config.get("measurement"):
        options = sorted((lookup(config, "measurement.init_args") or {}).items())
        return [(measurement.get("class_path"), backbone, optimizer, repr(options))]
    adapter, batch = lookup(config, "model.backbone.adapter"), lookup(config, "data.batch_size") or 1
    return [(backbone, adapter, batch, optimizer, task), (backbone, adapter, batch, optimizer)]


def _cost(config: Config, task: str) -> float:
    """Return the time of a step in forward and backward passes of its batch."""
    cls: Any = import_class(str(lookup(config, "optimizer.class_path")))
    if not hasattr(cls, "relative_cost"):
        return 1.0
    coordinates = max(1, (metadata("task", task).get("classes") or 1) - 1)
    options = lookup(config, "optimizer.init_args") or {}
    try:
        rows = cls.count_rows(coordinates, options, bool(lookup(config, "model.backbone.adapter")))
    except (TypeError, ValueError):
        rows = coordinates  # the run refuses the option
    return cls.relative_cost + cls.row_cost * (rows * (lookup(config, "data.batch_size") or 1) - 1)


def format_duration(seconds: float | None) -> str:
    """Return a duration in words, such as ``90 min``."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
