"""Steps of several methods, interleaved in one process on the same model and samples.

Every round draws a batch and lets each method take one step on it, in an order that rotates, so that a machine
whose speed drifts slows all of them alike. Times are medians over the rounds, ratios medians of each round's ratio;
the ratio of the sums counts what an optimizer does now and then too, and that of a period the refreshes of a natural
gradient.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filtune.lightning_modules.atomic import atomic_write
from filtune.lightning_modules.callbacks.summary import commit, device_name, versions

from benchmarks.methods import (
    OPTIMIZERS,
    Batch,
    Floor,
    Graphed,
    OptimizerMethod,
    OrdinaryFloor,
    TimedMethod,
    map_tensors,
)
from benchmarks.models import Case


class Point(NamedTuple):
    """A model with its batches, and the methods that take turns on it.

    Attributes:
        name: Its name.
        build: The model.
        outputs: m.
        methods: Names of the optimizers; the first is AdamW, the reference.
        batch: B.
        panel: Title of the panel of the plot that it belongs to.
        x: Its place in there; None where the panel has one place for each point.
        rows: d of the floor; m - 1 by default.
        ordinary: Whether the ordinary floor is measured as well.
        published: The ratio of LoKO to AdamW in the paper.
    """

    name: str
    build: Callable[[], Case]
    outputs: int
    methods: Sequence[str]
    batch: int = 1
    panel: str = ""
    x: int | None = None
    rows: int = 0
    ordinary: bool = False
    published: float | None = None


def measure_point(point: Point, device: torch.device, warmup: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the figures of all methods at one point."""
    torch.manual_seed(0)
    with device:
        case = point.build().to(device)
    methods = build_methods(point, case, device)
    stream = batches(case, point.outputs, point.batch, device)
    done = interleave(methods, stream, warmup, rounds, seconds)
    return {
        **{key: getattr(point, key) for key in ("name", "outputs", "batch", "panel", "x", "published")},
        "rounds": done,
        "trainable_parameters": sum(p.numel() for p in case.parameters() if p.requires_grad),
        "optimizers": compare_methods(methods, warmup),
    }


def build_methods(point: Point, case: Case, device: torch.device) -> dict[str, TimedMethod]:
    """Return the floors and the optimizers of a point, each with its own copy of the model."""
    rows = point.rows or point.outputs - 1
    found: dict[str, TimedMethod] = {"floor": Floor(case, device, rows)}
    if point.ordinary:
        found["ordinary-floor"] = OrdinaryFloor(case, device, rows)
    for name in point.methods:
        method = OptimizerMethod(case, device, OPTIMIZERS[name])
        found[name] = Graphed(method) if OPTIMIZERS[name].has_graph else method
    return found


def batches(case: Case, outputs: int, size: int, device: torch.device) -> Iterator[Batch]:
    """Yield random inputs and labels, without end."""
    generator = torch.Generator().manual_seed(0)
    while True:
        inputs = case.sample(generator, size)
        target = torch.randint(outputs, (size,), generator=generator)
        yield map_tensors(inputs, lambda tensor: tensor.to(device)), target.to(device)


def interleave(
    methods: dict[str, Any],
    stream: Iterator[Batch],
    warmup: int,
    rounds: int,
    seconds: float,
    block: int = 1,
    failed: dict[str, str] | None = None,
) -> int:
    """Let all take steps for so many rounds, or for so many seconds but at least three; return the rounds.

    Args:
        methods: The methods by name.
        stream: The batches.
        warmup: Rounds before those that are counted.
        rounds: Most rounds.
        seconds: Most seconds after the warm-up.
        block: Steps of a method in a row.
        failed: Where the errors of methods go, which are then left out; None to raise them.
    """
    start, done = time.perf_counter(), 0
    for k in range(warmup + rounds):
        if k == warmup:
            start = time.perf_counter()
        data, names = [next(stream) for _ in range(block)], list(methods)
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            try:
                methods[name].step(data)
            except Exception as error:
                if failed is None:
                    raise
                failed[name] = f"{type(error).__name__}: {str(error)[:400]}"
                del methods[name]
        done = k + 1 - warmup
        if done >= 3 and time.perf_counter() - start > seconds:
            break
    for method in methods.values():
        del method.seconds[:warmup], method.host_seconds[:warmup]
        method.measure_rest(stream, min(done, 5))
    return done


def compare_methods(methods: dict[str, Any], first: int | None = None) -> dict[str, dict[str, Any]]:
    """Return the figures of all methods, with the ratios to AdamW and to the floor.

    Args:
        methods: The methods by name.
        first: Number of the first step that is counted, from 0, a refresh; None where a time is not that of one step.
    """
    figures = {name: method.figures() for name, method in methods.items()}
    for name, own in figures.items():
        if "state_bytes" in own:
            own["memory_ratio_to_adamw"] = _memory(own) / _memory(figures["adamw"])
        for reference in ("adamw", "floor"):
            against = methods[reference].seconds
            ratios = [mine / theirs for mine, theirs in zip(methods[name].seconds, against, strict=True)]
            own[f"ratio_to_{reference}"] = statistics.median(ratios)
            own[f"ratio_of_sums_to_{reference}"] = sum(methods[name].seconds) / sum(against)
            if reference == "adamw":
                own["quartiles_ratio_to_adamw"] = statistics.quantiles(ratios, n=4)[::2]
                own |= {} if first is None else period_ratios(ratios, methods[name].period, first)
    return figures


def _memory(figures: dict[str, Any]) -> int:
    """Return the bytes of an optimizer's state and of what a step takes beside it at most."""
    return figures["state_bytes"] + figures["peak_step_bytes"]


def period_ratios(ratios: list[float], period: int, first: int) -> dict[str, float]:
    """Return the median ratios of refreshes and of lazy steps, and the mean ratio of a period; none without both.

    Args:
        ratios: Ratio of each step.
        period: Steps of a period; its first is a refresh.
        first: Number of the first of these steps, from 0.
    """
    refreshes = [ratio for k, ratio in enumerate(ratios, first) if k % period == 0]
    lazy_steps = [ratio for k, ratio in enumerate(ratios, first) if k % period]
    if not refreshes or not lazy_steps:
        return {}
    refresh, lazy = statistics.median(refreshes), statistics.median(lazy_steps)
    return {"refresh": refresh, "lazy": lazy, "period": (refresh + (period - 1) * lazy) / period}


def parser_of(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return a parser with the options of every measurement."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="most rounds")
    parser.add_argument("--seconds", type=float, help="stop a point after so many, but not before three rounds")
    parser.add_argument("--warmup", type=int, default=8, help="rounds before those that are counted")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--output", type=Path, help="path of the JSON, and of the PNG of several points beside it")
    parser.set_defaults(**defaults)
    return parser


def measure_points(points: Iterable[Point], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all points as the options say, and write the JSON after each, with the environment."""
    torch.set_num_threads(options.threads)
    found: list[dict[str, Any]] = []
    for point in points:
        print(point.name, flush=True)
        found.append(measure_point(point, options.device, options.warmup, options.rounds, options.seconds))
        if options.output:
            record = {"points": found, "environment": describe_environment(options.device, options.threads)}
            write_record(record, options.output.with_suffix(".json"))
    return found


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write the result of a measurement as JSON, as a whole; its folder is created if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps(record, indent=2) + "\n")


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
