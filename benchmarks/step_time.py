"""Time of one step of each optimizer, interleaved in one process on the same model and samples.

Each round draws one batch and lets every optimizer take one step on it, in turn and in an order that rotates, so
that a machine whose speed drifts slows all of them alike. Figures are medians over the rounds; the ratio is that of
the medians to AdamW's.

    python -m benchmarks.step_time --model minilm --outputs 2 --output docs/results/step_time_minilm_2.json
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.models import MODELS, Case
from lightning_modules.callbacks.summary import commit, device_name, versions
from optimizers import SGD, AdaGrad, AdamW, Categorical, LoKO, OnlineOptimizer

OPTIMIZERS: dict[str, Callable[[Any], OnlineOptimizer]] = {
    "adamw": AdamW,
    "adagrad": AdaGrad,
    "sgd": SGD,
    "loko": LoKO,
    "loko-logits": lambda params: LoKO(params, observation="logits"),
}


class Runner:
    """One optimizer on its own copy of the model.

    Args:
        case: The model.
        make: Builds the optimizer from parameters.
        device: Where it runs.
    """

    def __init__(self, case: Case, make: Callable[[Any], OnlineOptimizer], device: torch.device) -> None:
        self.case = copy.deepcopy(case).to(device).eval()
        self.trained = [p for p in self.case.parameters() if p.requires_grad]
        torch.manual_seed(0)
        self.optimizer = make(self.trained).attach(self.case)
        self.device = device
        self.seconds: list[float] = []
        self.peak = 0

    def step(self, inputs: Any, target: torch.Tensor) -> None:
        """Take one timed step."""
        self._synchronize()
        start = time.perf_counter()
        self.optimizer.step(lambda: Categorical(self.case(inputs)).observe(target))
        self._synchronize()
        self.seconds.append(time.perf_counter() - start)

    def measure_memory(self, inputs: Any, target: torch.Tensor) -> None:
        """Most memory that one step takes beyond what was held before it, in bytes."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            self.step(inputs, target)
            self.peak = torch.cuda.max_memory_allocated() - held
        else:
            with torch.profiler.profile(profile_memory=True) as profile:
                self.step(inputs, target)
            self.peak = _peak_allocation(profile)
        self.seconds.pop()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _peak_allocation(profile: torch.profiler.profile) -> int:
    """Highest running total of the allocations that the profiler saw."""
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds and collect the figures."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    case = MODELS[options.model](options.outputs, options.weights, options.length)
    runners = {name: Runner(case, OPTIMIZERS[name], device) for name in options.optimizers}
    generator = torch.Generator().manual_seed(0)

    def batch() -> tuple[Any, torch.Tensor]:
        inputs = case.sample(generator, options.batch_size)
        moved = {k: v.to(device) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.to(device)
        target = torch.randint(options.outputs, (options.batch_size,), generator=generator)
        return moved, target.to(device)

    names = list(runners)
    for k in track(range(options.warmup + options.rounds), description=f"{options.model}, m={options.outputs}"):
        inputs, target = batch()
        for name in names[k % len(names) :] + names[: k % len(names)]:
            runners[name].step(inputs, target)
    for runner in runners.values():
        del runner.seconds[: options.warmup]
        runner.measure_memory(*batch())
    reference = statistics.median(runners["adamw"].seconds)
    return {
        "model": options.model,
        "outputs": options.outputs,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "trainable_parameters": sum(p.numel() for p in next(iter(runners.values())).trained),
        "weights": "real" if options.weights else "random",
        "optimizers": {
            name: {
                "median_seconds": statistics.median(runner.seconds),
                "quartiles_seconds": statistics.quantiles(runner.seconds, n=4)[::2],
                "ratio_to_adamw": statistics.median(runner.seconds) / reference,
                "peak_step_bytes": runner.peak,
                "state_bytes": runner.optimizer.state_bytes(),
            }
            for name, runner in runners.items()
        },
        "environment": {
            "date": date.today().isoformat(),
            "device": device_name(device),
            "machine": platform.machine(),
            "threads": options.threads,
            "versions": versions(),
            "commit": commit(),
        },
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table(
        title=f"{result['model']}, {result['outputs']} outputs, batch {result['batch_size']}, "
        f"n = {result['trainable_parameters']:,}"
    )
    for name in ("optimizer", "ms / step", "ratio to AdamW", "peak of a step, MiB", "state, MiB"):
        table.add_column(name, justify="left" if name == "optimizer" else "right")
    for name, figures in result["optimizers"].items():
        table.add_row(
            name,
            f"{1000 * figures['median_seconds']:.2f}",
            f"{figures['ratio_to_adamw']:.2f}",
            f"{figures['peak_step_bytes'] / 2**20:.1f}",
            f"{figures['state_bytes'] / 2**20:.2f}",
        )
    Console().print(table)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="lenet5")
    parser.add_argument("--outputs", type=int, default=10, help="number of classes, m")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--weights", help="folder with real weights (default: random)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--length", type=int, default=24, help="tokens of a text")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args(args)
    if "adamw" not in options.optimizers:
        parser.error("--optimizers: adamw is the reference and must be among them")
    result = measure(options)
    show(result)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
