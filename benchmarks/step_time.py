"""Time and memory of one step of each optimizer on one model, against AdamW and against the floor.

How they are compared is described in :mod:`benchmarks.timing`, what the floor is in :mod:`benchmarks.methods`.

    python -m benchmarks.step_time --model minilm --outputs 2 --output docs/results/step_time.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from filtune.experiments.terminal import terminal_table
from rich.console import Console

from benchmarks.methods import OPTIMIZERS
from benchmarks.models import MODELS
from benchmarks.timing import batches, build_methods, compare_methods, describe_environment, interleave

DEFAULT = ["adamw", "adagrad", "sgd", "filtune", "loko", "loko-logits", "r-kalman", "low-rank"]


def measure_model(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds and collect the figures."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    case = MODELS[options.model](options.outputs, options.weights, options.length).to(device)
    methods = build_methods(case, options.optimizers, options.outputs, device)
    stream = batches(case, options.outputs, options.batch_size, device)
    rounds = interleave(methods, stream, options.warmup, options.rounds, options.seconds)
    return {
        "model": options.model,
        "outputs": options.outputs,
        "batch_size": options.batch_size,
        "rounds": rounds,
        "trainable_parameters": sum(p.numel() for p in case.parameters() if p.requires_grad),
        "weights": "real" if options.weights else "random",
        "optimizers": compare_methods(methods),
        "environment": describe_environment(device, options.threads),
    }


def print_model(result: dict[str, Any]) -> None:
    """Print the figures."""
    size = f"{result['outputs']} outputs, batch {result['batch_size']}, n = {result['trainable_parameters']:,}"
    columns = ("ms / step", "/ AdamW", "sum / AdamW", "/ floor", "algebra, %", "peak of a step, MiB", "state, MiB")
    rows = []
    for name, figures in result["optimizers"].items():
        share, peak, state = (figures.get(key) for key in ("algebra_share", "peak_step_bytes", "state_bytes"))
        rows.append(
            (
                name,
                f"{1000 * figures['median_seconds']:.2f}",
                f"{figures['ratio_to_adamw']:.2f}",
                f"{figures['ratio_of_sums_to_adamw']:.2f}",
                f"{figures['ratio_to_floor']:.2f}",
                "" if share is None else f"{100 * share:.1f}",
                "" if peak is None else f"{peak / 2**20:.1f}",
                "" if state is None else f"{state / 2**20:.2f}",
            )
        )
    Console().print(terminal_table(f"{result['model']}, {size}", ("optimizer", *columns), rows))


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="lenet5")
    parser.add_argument("--outputs", type=int, default=10, help="number of classes, m")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=DEFAULT)
    parser.add_argument("--weights", help="folder with real weights (default: random)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--length", type=int, default=24, help="tokens of a text")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600, help="stop after so many, but not before three rounds")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args(args)
    if "adamw" not in options.optimizers:
        parser.error("--optimizers: adamw is the reference and must be among them")
    result = measure_model(options)
    print_model(result)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
