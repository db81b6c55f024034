r"""Cost of a step over the number of classes: Filtune, AdamW and SOAP, on the models that the studies fine-tune.

Weights and labels are random, so that with many classes the label is hardly ever the most probable one: with ``top_k``
1, the default beside frozen weights, nearly every step has two rows of the Jacobian, the most there can be. On a stream
that is predicted well it has one. LeNet-5 is trained whole, with ``top_k`` 9: up to ten rows. The floor is one forward
pass and one backward pass of one row.

    python -m benchmarks.classes --threads 1 --output docs/results/cost_classes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filtune.experiments.terminal import terminal_table
from filtune.reports.plots import draw_legend, draw_mean, looks, new_figure, save_png
from rich.console import Console

from benchmarks.methods import OPTIMIZERS, Floor, OptimizerMethod, TimedMethod
from benchmarks.models import MODELS
from benchmarks.timing import batches, compare_methods, describe_environment, interleave

POINTS: Mapping[str, Sequence[int]] = {
    "lenet5": (2, 10, 100),
    "minilm": (2, 10, 100, 1000),
    "efficientnet-lite0": (2, 10, 100, 1000),
    "vit-s16": (10, 100, 1000),
}
"""Numbers of classes of each model."""

METHODS = ("adamw", "soap", "filtune")


def measure_point(model: str, outputs: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the figures of all methods on one model with so many classes."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    case = MODELS[model](outputs, None, 24)
    optimizers = {name: OptimizerMethod(case, device, OPTIMIZERS[name]) for name in METHODS}
    methods: dict[str, TimedMethod] = {"floor": Floor(case, device, 1), **optimizers}
    done = interleave(methods, batches(case, outputs, 1, device), warmup=3, rounds=rounds, seconds=seconds)
    return {
        "model": model,
        "outputs": outputs,
        "rounds": done,
        "trainable_parameters": sum(p.numel() for p in case.parameters() if p.requires_grad),
        "optimizers": compare_methods(methods),
    }


def print_points(points: list[dict[str, Any]]) -> None:
    """Print the times and their ratios to AdamW's."""
    heads = ("model", "classes", "n", "AdamW, ms", "floor", *(name for name in METHODS if name != "adamw"))
    rows = []
    for point in points:
        found = point["optimizers"]
        ratios = [
            f"{found[name]['ratio_to_adamw']:.2f} ({found[name]['ratio_of_sums_to_adamw']:.2f})"
            for name in found
            if name != "adamw"
        ]
        milliseconds = f"{1000 * found['adamw']['median_seconds']:.1f}"
        rows.append(
            (point["model"], str(point["outputs"]), f"{point['trainable_parameters']:,}", milliseconds, *ratios)
        )
    title = "one sample: ms of AdamW's step, and ratios to it (median; of the sums)"
    Console().print(terminal_table(title, heads, rows))


def plot_points(points: list[dict[str, Any]], target: Path) -> None:
    """Plot the ratio to AdamW over the number of classes, one panel a model."""
    models = list(dict.fromkeys(point["model"] for point in points))
    styles = looks((name, name, "paper") for name in ("floor", *METHODS))
    with new_figure(1, len(models), (3 * len(models), 3.3)) as (figure, axes):
        handles = {}
        for axis, model in zip(axes[0], models, strict=True):
            own = [point for point in points if point["model"] == model]
            classes = [point["outputs"] for point in own]
            for name in own[0]["optimizers"]:
                ratios = [point["optimizers"][name]["ratio_to_adamw"] for point in own]
                handles[name] = draw_mean(axis, classes, ratios, styles[name], marker="o")
            axis.set(title=model, xlabel="classes", xscale="log", ylim=(0, None))
        axes[0, 0].set_ylabel("step time, ratio to AdamW")
        draw_legend(figure, handles, styles)
        save_png(figure, target)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--classes", nargs="+", type=int, help="in place of those of each model")
    parser.add_argument("--rounds", type=int, default=200, help="at most, for one model with so many classes")
    parser.add_argument("--seconds", type=float, default=12, help="for the same, but at least three rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="path of the JSON and the PNG, without suffix")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    points = []
    for model in options.models:
        for outputs in options.classes or POINTS[model]:
            print(f"{model}, {outputs} classes", flush=True)
            points.append(measure_point(model, outputs, options.rounds, options.seconds))
    print_points(points)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"points": points, "environment": describe_environment(torch.device("cpu"), options.threads)}
        options.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        plot_points(points, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
