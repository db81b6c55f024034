"""Steps of several methods, interleaved in one process on the same model and samples.

Every round draws one batch and lets each method take one step on it, in an order that rotates, so that a machine
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

from benchmarks.methods import OPTIMIZERS, Batch, Floor, OptimizerMethod, OrdinaryFloor, TimedMethod, map_tensors
from benchmarks.models import Case


def build_methods(case: Case, names: list[str], outputs: int, device: torch.device) -> dict[str, TimedMethod]:
    """Return the floors and the optimizers of these names, each with its own copy of the model."""
    rows = outputs - 1
    floors: dict[str, TimedMethod] = {
        "floor": Floor(case, device, rows),
        "ordinary-floor": OrdinaryFloor(case, device, rows),
    }
    return {**floors, **{name: OptimizerMethod(case, device, OPTIMIZERS[name]) for name in names}}


def batches(case: Case, outputs: int, size: int, device: torch.device) -> Iterator[Batch]:
    """Yield random inputs and labels, without end."""
    generator = torch.Generator().manual_seed(0)
    while True:
        inputs = case.sample(generator, size)
        target = torch.randint(outputs, (size,), generator=generator)
        yield map_tensors(inputs, lambda tensor: tensor.to(device)), target.to(device)


def interleave(
    methods: dict[str, TimedMethod], stream: Iterator[Batch], warmup: int, rounds: int, seconds: float
) -> int:
    """Let all take steps for so many rounds, or for so many seconds but at least three; return the rounds."""
    names, start, done = list(methods), time.perf_counter(), 0
    for k in range(warmup + rounds):
        if k == warmup:
            start = time.perf_counter()
        batch = next(stream)
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            methods[name].step(batch)
        done = k + 1 - warmup
        if done >= 3 and time.perf_counter() - start > seconds:
            break
    for method in methods.values():
        del method.seconds[:warmup]
        if isinstance(method, OptimizerMethod):
            for _ in range(min(done, 5)):
                method.measure_algebra(next(stream))
            method.measure_memory(next(stream))
    return done


def compare_methods(methods: dict[str, TimedMethod]) -> dict[str, dict[str, Any]]:
    """Return the figures of all methods, with the ratios to AdamW and to the floor."""
    figures = {name: method.figures() for name, method in methods.items()}
    for reference in ("adamw", "floor"):
        against = methods[reference].seconds
        for name, own in figures.items():
            ratios = [mine / theirs for mine, theirs in zip(methods[name].seconds, against, strict=True)]
            own[f"ratio_to_{reference}"] = statistics.median(ratios)
            own[f"ratio_of_sums_to_{reference}"] = sum(methods[name].seconds) / sum(against)
    return figures


def describe_environment(device: torch.device, threads: int) -> dict[str, Any]:
    """Return the machine, versions and commit the figures were measured with."""
    return {
        "date": date.today().isoformat(),
        "device": device_name(device),
        "machine": platform.machine(),
        "threads": threads,
        "versions": versions(),
        "commit": commit(),
    }
