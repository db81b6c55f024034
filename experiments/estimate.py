"""Duration of runs: from records of similar runs, else from the size of the model and the speed of the machine.

A run takes the time to start, that of its training steps, and that of the samples which its validations score::

    seconds = start + steps * seconds_per_step + validated * seconds_per_validated_sample

Each of the three is measured on finished runs, of which the most similar ones count. Runs of another optimizer or model
correct the guess: it is multiplied by the median ratio of what they took to what was guessed for them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from filtune.lightning_modules.defaults import import_class

from .composition import Config, lookup, metadata
from .keys import canonical_form

START = 15.0
"""Seconds that a run takes to start, until one has been made."""

LEAST_STEP, LEAST_SAMPLE = 0.003, 0.0002
"""Seconds that a training step and a validated sample take at least, however small the model is."""


@dataclass(frozen=True)
class RunSize:
    """The length of a run.

    Attributes:
        samples: Length of the stream.
        steps: Steps of all epochs.
        validated: Samples that all validations score together; 0 where their number is not known.
    """

    samples: int
    steps: int
    validated: int = 0


@dataclass(frozen=True)
class TaskRows:
    """Rows of a task; None where they are not known.

    Attributes:
        train: Rows of the stream.
        val: Rows of a validation.
    """

    train: int | None = None
    val: int | None = None


def stated_rows(task: str) -> TaskRows:
    """Return the rows that a shipped task states."""
    stated = metadata("task", task)
    return TaskRows(stated.get("train_samples"), stated.get("val_samples"))


def run_size(config: Config, task: str, rows: TaskRows | None = None) -> RunSize | None:
    """Return samples, steps and validated samples of a run; None where the length of the stream is not known.

    Args:
        config: Its configuration.
        task: Name of its task.
        rows: Rows of the task, by default those that it states.
    """
    rows = rows or stated_rows(task)
    names = ("data.max_samples", "data.batch_size", "trainer.max_epochs", "trainer.max_steps")
    values = [lookup(config, name) for name in names]
    if not all(value is None or isinstance(value, int) for value in values):
        return None  # the run refuses it
    limit, batch, epochs, most = values
    if rows.train is None and limit is None:
        return None
    samples = min(n for n in (rows.train, limit) if n is not None)
    per_epoch = math.ceil(samples / max(1, batch or 1))
    epochs, most = epochs or 1, most or -1
    limits = [limit for limit in (per_epoch * epochs, most) if limit >= 0]  # -1: until the other one ends it
    if not limits:
        return None
    steps, most_val = min(limits), lookup(config, "data.max_val_samples")
    val_rows = min((n for n in (rows.val, most_val) if isinstance(n, int)), default=0)
    return RunSize(samples, steps, count_validations(config, per_epoch, steps) * val_rows)


def count_validations(config: Config, per_epoch: int, steps: int) -> int:
    """Return how often a run of ``reproduce`` or ``sweep`` validates: once a pass, unless an interval is set.

    Args:
        config: Its configuration.
        per_epoch: Steps of a pass.
        steps: Steps of all passes.
    """
    interval, every = lookup(config, "trainer.val_check_interval"), lookup(config, "trainer.check_val_every_n_epoch", 1)
    if not isinstance(interval, int | float) or isinstance(interval, bool) or interval <= 0:
        interval = 1.0  # once a pass; a time is not known beforehand
    batches = min(max(interval * per_epoch, 1.0) if isinstance(interval, float) else interval, max(steps, 1))
    if every is None:  # the batches of all passes are counted, and the last one validates
        return math.ceil(steps / batches)
    return math.ceil(steps / per_epoch) // max(every, 1) * math.ceil(min(per_epoch, steps) / batches)


class Estimator:
    """Estimator of the duration of runs, from records of similar ones.

    Args:
        records: Records of finished runs, of this machine.
    """

    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        self._starts: list[float] = []
        self._whole: dict[str, list[float]] = {}
        self._rows: dict[str, TaskRows] = {}
        self._steps, self._samples = _Rates(), _Rates()
        for record in records:
            self.learn(record)

    def learn(self, record: dict[str, Any]) -> None:
        """Take a finished run into account."""
        config, task, backbone, times = record["config"], record["task"], record["backbone"], record["times"]
        wall, steps, process = times.get("wall_seconds"), record.get("steps"), times.get("process_seconds")
        if not wall:
            return
        if process and process >= wall:  # the last process of a resumed run may take less than the whole run
            self._starts.append(process - wall)
        if "measurement" in config:
            self._whole.setdefault(_canonical(config), []).append(wall)
        if not steps:
            return
        if record.get("train_rows") and lookup(config, "data.max_samples") is None:
            self._rows[task] = TaskRows(record["train_rows"], record.get("val_rows"))
        mean, size = times.get("mean_seconds_per_step"), self._size(config, task)
        training = min(mean * steps, wall) if mean else wall  # records of earlier releases have no mean
        guess = self._guess_step(config, task, backbone)
        self._steps.learn(_step_kinds(config, task, backbone), training / steps, guess)
        if size and size.validated and record["status"] == "finished":
            kinds = _sample_kinds(task, backbone)
            self._samples.learn(kinds, (wall - training) / size.validated, self._guess_sample(backbone))

    def seconds(self, config: Config, task: str, backbone: str) -> float | None:
        """Return the seconds of a run; None where nothing is known about it."""
        start = median(self._starts) if self._starts else START
        if "measurement" in config:  # its steps are its own
            whole = self._whole.get(_canonical(config))
            return start + median(whole) if whole else None
        size = self._size(config, task)
        step = self._steps.find(_step_kinds(config, task, backbone), self._guess_step(config, task, backbone))
        sample = self._samples.find(_sample_kinds(task, backbone), self._guess_sample(backbone))
        if size is None or step is None:
            return None
        return start + size.steps * step + size.validated * (sample or 0.0)

    def _size(self, config: Config, task: str) -> RunSize | None:
        """Return the length of a run; of a task that states none, what a run without a limit had."""
        stated = stated_rows(task)
        return run_size(config, task, stated if stated.train else self._rows.get(task))

    def _guess_step(self, config: Config, task: str, backbone: str) -> float | None:
        """Return the seconds of a step: three forward passes of its batch, times the optimizer's relative cost."""
        gflops = metadata("backbone", backbone).get("gflops")
        if gflops is None:
            return None
        batch = max(1, lookup(config, "data.batch_size") or 1)
        return max(3 * gflops * batch / self.speed, LEAST_STEP) * _cost(config, task)

    def _guess_sample(self, backbone: str) -> float | None:
        """Return seconds of a validated sample: one forward pass."""
        gflops = metadata("backbone", backbone).get("gflops")
        return None if gflops is None else max(gflops / self.speed, LEAST_SAMPLE)

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


class _Rates:
    """Measured seconds of a unit of work: those of similar runs, else the guess, corrected by what other runs took."""

    def __init__(self) -> None:
        self._measured: dict[tuple, list[float]] = {}
        self._ratios: dict[str, list[float]] = {}

    def learn(self, kinds: list[tuple], seconds: float, guess: float | None) -> None:
        for kind in kinds:
            self._measured.setdefault(kind, []).append(seconds)
        if guess:
            for backbone in (kinds[-1][0], ""):
                self._ratios.setdefault(backbone, []).append(seconds / guess)

    def find(self, kinds: list[tuple], guess: float | None) -> float | None:
        for kind in kinds:
            if kind in self._measured:
                return median(self._measured[kind])
        ratios = self._ratios.get(kinds[-1][0]) or self._ratios.get("") or [1.0]
        return None if guess is None else guess * median(ratios)


def _step_kinds(config: Config, task: str, backbone: str) -> list[tuple]:
    """Return properties by which training steps take equally long, the closest first."""
    optimizer, adapter = str(lookup(config, "optimizer.class_path")), lookup(config, "model.backbone.adapter")
    batch = lookup(config, "data.batch_size") or 1
    return [(backbone, adapter, batch, optimizer, task), (backbone, adapter, batch, optimizer)]


def _sample_kinds(task: str, backbone: str) -> list[tuple]:
    """Return properties by which validated samples take equally long, the closest first."""
    return [(backbone, task), (backbone,)]


def _canonical(config: Config) -> str:
    """Return the options of a configuration that differ from their defaults, as a text."""
    return json.dumps(canonical_form(config), sort_keys=True)


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
