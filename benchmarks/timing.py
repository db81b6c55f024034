"""Steps of several contestants, interleaved in one process on the same model and samples.

Every round draws one batch and lets each contestant take one step on it, in an order that rotates, so that a machine
whose speed drifts slows all of them alike. Times are medians over the rounds, ratios medians of each round's ratio;
the ratio of the sums counts what an optimizer does now and then too.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterator
from datetime import date
from typing import Any

import torch
from filtune.lightning_modules.callbacks.summary import commit, device_name, versions

from benchmarks.contestants import OPTIMIZERS, Batch, Contestant, Runner, each
from benchmarks.floors import Floor, OrdinaryFloor
from benchmarks.models import Case


def contestants(case: Case, names: list[str], outputs: int, device: torch.device) -> dict[str, Contestant]:
    """The floors and the optimizers of these names, each with its own copy of the model."""
    rows = outputs - 1
    floors: dict[str, Contestant] = {
        "floor": Floor(case, device, rows),
        "ordinary-floor": OrdinaryFloor(case, device, rows),
    }
    return {**floors, **{name: Runner(case, device, OPTIMIZERS[name]) for name in names}}


def batches(case: Case, outputs: int, size: int, device: torch.device) -> Iterator[Batch]:
    """Random inputs and labels, without end."""
    generator = torch.Generator().manual_seed(0)
    while True:
        inputs = case.sample(generator, size)
        target = torch.randint(outputs, (size,), generator=generator)
        yield each(inputs, lambda tensor: tensor.to(device)), target.to(device)


def race(racing: dict[str, Contestant], stream: Iterator[Batch], warmup: int, rounds: int, seconds: float) -> int:
    """Let all of them take steps for so many rounds, or at least three where the seconds are over; how many it were."""
    names, start, done = list(racing), time.perf_counter(), 0
    for k in range(warmup + rounds):
        if k == warmup:
            start = time.perf_counter()
        batch = next(stream)
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            racing[name].step(batch)
        done = k + 1 - warmup
        if done >= 3 and time.perf_counter() - start > seconds:
            break
    for contestant in racing.values():
        del contestant.seconds[:warmup]
        if isinstance(contestant, Runner):
            for _ in range(min(done, 5)):
                contestant.measure_algebra(next(stream))
            contestant.measure_memory(next(stream))
    return done


def compare(racing: dict[str, Contestant]) -> dict[str, dict[str, Any]]:
    """Figures of all of them, with the ratios to AdamW and to the floor."""
    figures = {name: contestant.figures() for name, contestant in racing.items()}
    for reference in ("adamw", "floor"):
        against = racing[reference].seconds
        for name, own in figures.items():
            ratios = [mine / theirs for mine, theirs in zip(racing[name].seconds, against, strict=True)]
            own[f"ratio_to_{reference}"] = statistics.median(ratios)
            own[f"ratio_of_sums_to_{reference}"] = sum(racing[name].seconds) / sum(against)
    return figures


def environment(device: torch.device, threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "date": date.today().isoformat(),
        "device": device_name(device),
        "machine": platform.machine(),
        "threads": threads,
        "versions": versions(),
        "commit": commit(),
    }
