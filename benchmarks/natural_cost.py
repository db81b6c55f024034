r"""Cost of a step of NGD, RING and RENG relative to AdamW's on the same batches: lazy steps, refreshes, and a period.

All methods take turns on the same random samples, see :mod:`benchmarks.timing`. A period is one refresh and skip - 1
lazy steps, each at its median ratio to AdamW's step on the same batch.

    python -m benchmarks.natural_cost --threads 1 --output docs/results/natural_cost
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filtune.experiments.terminal import terminal_table
from filtune.optimizers import NGD, RENG, RING, SAM, AdamW, OnlineOptimizer, Sophia
from filtune.reports.plots import FAINT, INK, METHODS, new_figure, save_png
from rich.console import Console

from benchmarks.methods import OptimizerMethod, TimedMethod
from benchmarks.models import Case, lenet5, pretrained_image, roberta, transformer, vit_base
from benchmarks.timing import batches, describe_environment, interleave

SKIP = 8
AIMS = {"ngd": {"refresh": 1.5}, "ring": {"lazy": 1.05, "period": 1.10}, "reng": {"lazy": 1.05, "period": 1.25}}
"""Ratios to AdamW that are aimed at."""

RULES: dict[str, tuple[Callable[[Any], OnlineOptimizer], int]] = {
    "adamw": (AdamW, 1),
    "ngd": (NGD, 1),
    "ring": (lambda params: RING(params, skip=SKIP), SKIP),
    "ring, eigen": (lambda params: RING(params, skip=SKIP, inverse_method="eigen"), SKIP),
    "ring, sampled labels": (lambda params: RING(params, skip=SKIP, fisher_type="mc"), SKIP),
    "reng": (lambda params: RENG(params, skip=SKIP), SKIP),
    "sam": (SAM, 1),
    "sophia": (Sophia, 10),
}
"""Each with the steps of its period."""


class Scene(NamedTuple):
    """A model and its batches.

    Attributes:
        build: The model.
        outputs: m.
        batch: B.
    """

    build: Callable[[], Case]
    outputs: int
    batch: int


SCENES = {
    "minilm, 2 classes, 32 x 24 tokens": Scene(lambda: transformer(2, 8, ["query", "value"]), 2, 32),
    "minilm, 10 classes, 32 x 24 tokens": Scene(lambda: transformer(10, 8, ["query", "value"]), 10, 32),
    "minilm, 2 classes, one text": Scene(lambda: transformer(2, 8, ["query", "value"]), 2, 1),
    "lenet-5, 10 classes, 32 images": Scene(lambda: lenet5(10, None, 0), 10, 32),
    "resnet-18, LoRA on all convolutions, 8 images": Scene(
        lambda: pretrained_image("resnet18", 10, None, ["conv"], "fc"), 10, 8
    ),
    "roberta-base, 2 classes, 32 x 128 tokens": Scene(lambda: roberta(2, None, 128), 2, 32),
    "vit-b16, 100 classes, 64 images": Scene(lambda: vit_base(100, None, 0), 100, 64),
}
CPU = list(SCENES)[:5]


def measure_scene(scene: Scene, names: list[str], periods: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Return the ratios to AdamW of every rule's lazy steps, refreshes and period, and bytes."""
    torch.manual_seed(0)
    case = scene.build().to(device)
    methods: dict[str, TimedMethod] = {name: OptimizerMethod(case, device, RULES[name][0]) for name in names}
    stream = batches(case, scene.outputs, scene.batch, device)
    rounds = interleave(methods, stream, SKIP, periods * SKIP, seconds)
    adamw = methods["adamw"].seconds
    figures = {}
    for name, method in methods.items():
        ratios = [own / theirs for own, theirs in zip(method.seconds, adamw, strict=True)]
        period = RULES[name][1]
        refresh, lazy = (statistics.median(turn) if turn else None for turn in split_refreshes(ratios, period))
        assert refresh is not None
        figures[name] = {
            **method.figures(),
            "period": refresh if lazy is None else (refresh + (period - 1) * lazy) / period,
            "refresh": refresh,
            "lazy": lazy,
            "steps_of_a_period": period,
        }
    trained = sum(p.numel() for p in case.parameters() if p.requires_grad)
    return {"rounds": rounds, "batch": scene.batch, "trainable_parameters": trained, "optimizers": figures}


def split_refreshes(ratios: list[float], period: int) -> tuple[list[float], list[float]]:
    """Return the ratios of refreshes and of lazy steps; the first is of step SKIP (from 0), after the warm-up."""
    steps = list(enumerate(ratios, SKIP))
    return [r for k, r in steps if k % period == 0], [r for k, r in steps if k % period]


def print_scene(name: str, result: dict[str, Any]) -> None:
    """Print a scene's figures."""
    size = f"n = {result['trainable_parameters']:,}, {result['rounds']} rounds"
    rows = []
    for rule, figures in result["optimizers"].items():
        ratios = []
        for part in ("lazy", "refresh", "period"):
            aim = f" (aim {AIMS[rule][part]:.2f})" if part in AIMS.get(rule, {}) else ""
            ratios.append("" if figures[part] is None else f"{figures[part]:.2f}{aim}")
        sizes = [f"{figures[key] / 2**20:.1f}" for key in ("state_bytes", "peak_step_bytes")]
        rows.append((rule, *ratios, *sizes))
    heads, caption = (
        ("optimizer", "lazy", "refresh", "period", "state", "peak"),
        "MiB of the state, and at the peak of a step",
    )
    Console().print(terminal_table(f"{name} ({size})", heads, rows, caption=f"Time / AdamW; {caption}"))


def plot_scenes(results: dict[str, Any], target: Path) -> None:
    """Plot a bar of every scene's period, with the lazy step and the refresh as marks."""
    with new_figure(len(results), 1, (8, 2.3 * len(results))) as (figure, axes):
        for axis, (name, result) in zip(axes[:, 0], results.items(), strict=True):
            rules = result["optimizers"]
            axis.bar(list(rules), [f["period"] for f in rules.values()], color=FAINT, label="period")
            for part, mark in (("lazy", "v"), ("refresh", "^")):
                points = [(i, f[part]) for i, f in enumerate(rules.values()) if f["lazy"] is not None]
                axis.plot(*zip(*points, strict=True), mark, color=METHODS["ring"], label=part)
            axis.axhline(1, color=INK, linewidth=0.6)
            axis.set(ylabel="time / AdamW", title=name)
            axis.set_xticks(range(len(rules)), [rule.replace(", ", "\n") for rule in rules], fontsize="small")
        axes[0, 0].legend(fontsize="small")
        save_png(figure, target, 120)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=CPU)
    parser.add_argument("--optimizers", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--periods", type=int, default=8, help="of RING and RENG, eight steps each")
    parser.add_argument("--seconds", type=float, default=240, help="stop a scene after so many")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="path of the JSON and the PNG, without suffix")
    options = parser.parse_args(args)
    if "adamw" not in options.optimizers:
        parser.error("--optimizers: adamw is the reference and must be among them")
    torch.set_num_threads(options.threads)
    results = {}
    for name in options.scenes:
        device = torch.device(options.device)
        results[name] = measure_scene(SCENES[name], options.optimizers, options.periods, options.seconds, device)
        print_scene(name, results[name])
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"scenes": results, "aims": AIMS, "environment": describe_environment(device, options.threads)}
        options.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        plot_scenes(results, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
