"""Memory of a service over a million predictions, and over a hundred thousand samples learned by id."""

from __future__ import annotations

import gc
import math
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.live.serving import known_ids
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import open_state
from filtune.optimizers import SGD

from filtune import OnlineLearner

PREDICTIONS, LEARNED = 1_000_000, 100_000
POINTS, BLOCKS = 200, 10
"""Points at which the resident memory is read, and blocks of them whose means are compared."""

SMALLEST = 16
"""Bytes of the smallest object of CPython: the least that one object kept for each sample would take."""

T_95 = 1.86
"""One-sided 95 % quantile of Student's t with BLOCKS - 2 degrees of freedom."""


def bytes_per_item(values: list[int], items: int) -> tuple[float, float]:
    """Slope of the memory, and its upper 95 % limit, in bytes for each item.

    Least squares through the means of blocks, for neighbouring points are not independent of each other.
    """
    size = len(values) // BLOCKS
    means = [statistics.fmean(values[i * size : (i + 1) * size]) for i in range(BLOCKS)]
    places = [(i + 0.5) * items / BLOCKS for i in range(BLOCKS)]
    slope, intercept = statistics.linear_regression(places, means)
    rest = sum((y - intercept - slope * x) ** 2 for x, y in zip(places, means, strict=True)) / (BLOCKS - 2)
    spread = sum((x - statistics.fmean(places)) ** 2 for x in places)
    return slope, slope + T_95 * math.sqrt(rest / spread)


def test_a_leak_is_found() -> None:
    """16 bytes a sample are found in noise of 0.2 MB, as of an allocator, and without a leak none are."""
    noise = torch.randn(POINTS, generator=torch.Generator().manual_seed(0)) * 2e5
    for leak, found in ((0, False), (SMALLEST, True)):
        values = [int(1e8 + leak * PREDICTIONS * i / POINTS + noise[i]) for i in range(POINTS)]
        slope, limit = bytes_per_item(values, PREDICTIONS)
        assert abs(slope - leak) < 2
        assert (limit >= SMALLEST) == found


def row(number: int) -> dict[str, float]:
    return {"a": math.sin(number), "b": math.cos(0.7 * number), "c": float(number % 7), "d": (number % 100) / 10}


def resident() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(step: Callable[[int], Any], items: int, each: int) -> tuple[float, float]:
    """Bytes an item of a step that takes so many items, over all items, after a tenth as many more."""
    values, steps = [], items // each
    for number in range(steps // 10):
        step(number)
    gc.collect()
    for number in range(steps):
        step(steps + number)
        if number % (steps // POINTS) == 0:
            values.append(resident())
    found = bytes_per_item(values[:POINTS], items)
    print(f"{items:,} items: {found[0]:.2f} bytes an item, at most {found[1]:.2f}; {values[0]:,} to {values[-1]:,}")
    return found


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(known_ids.KnownIds.__init__, "__defaults__", (1000,))  # ids remembered
    learner = OnlineLearner("classification", "mlp", partial(SGD, lr=0.01), ["low", "high"], max_pending=100)
    learner.save(tmp_path / "start.ckpt")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    service = LearnerService(open_state(tmp_path / "start.ckpt", None), save_interval=LEARNED // 20)
    yield service
    service.close()
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_memory_over_a_million_predictions(service: Any) -> None:
    def step(number: int) -> None:
        xs = [row(100 * number + i) for i in range(100)]
        (answers,) = service.predictor.predict_together([xs])
        service.monitor.predicted(xs, "table", answers, [None] * 100)

    _, limit = measured(step, PREDICTIONS, 100)
    assert limit < SMALLEST


@pytest.mark.slow
def test_memory_over_samples_that_are_learned_by_id(service: Any) -> None:
    """Every tenth is predicted first, gets its label late or never, and is sent twice."""

    def send(*operations: Any) -> None:
        service.submit(list(operations), service.check(operations)).applied.result(600)

    def step(number: int) -> None:
        x, y = row(number), ("low", "high")[number % 2]
        if number % 10:
            send({"op": "learn", "x": x, "y": y, "id": number})
            return
        (answers,) = service.predictor.predict_together([[x]])
        send({"op": "wait", "id": f"late {number}", "x": x, "answer": answers[0].prediction})
        service.monitor.predicted([x], "table", answers, [f"late {number}"])
        send(*[{"op": "label", "id": f"late {number - 20}", "y": y}] * 2)

    _, limit = measured(step, LEARNED, 1)
    assert service.learner.metrics["samples"] > LEARNED
    assert limit < SMALLEST
