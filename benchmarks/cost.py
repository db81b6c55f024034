r"""Cost of a step of every filter relative to AdamW's and to the floor: over outputs, size of the state, and batch.

The model is a transformer of MiniLM's shape (6 layers, width 384, 24 tokens) with random weights; the state is LoRA on
its layers and its head. A matrix or a block of P that does not fit is left out. Under eight minutes on two cores.

    python -m benchmarks.cost --threads 1 --output docs/results/cost
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filtune.experiments.terminal import terminal_table
from filtune.reports.plots import draw_legend, draw_mean, log_scale, looks, new_figure, save_png
from rich.console import Console

from benchmarks.models import transformer
from benchmarks.timing import batches, build_methods, compare_methods, describe_environment, interleave

STATES: dict[str, tuple[int, list[str]]] = {"1e4": (2, ["query"]), "1e5": (2, ["linear"]), "1e6": (24, ["linear"])}
"""LoRA's rank and layers, by the size of the state they make."""

OUTPUTS = (2, 10, 100)
BATCHES = (1, 2, 4, 8)


class GridPoint(NamedTuple):
    """A point of the grid: size of the state, outputs, batch."""

    state: str
    outputs: int
    batch: int

    def optimizers(self) -> list[str]:
        """Return the names of the optimizers whose covariance fits."""
        names = ["adamw", "loko", "r-kalman", "low-rank"]
        if self.batch == 1:
            names += ["loko-logits"]
        if self.state != "1e6":
            names += ["filtune", "neuron"]
        if self.state != "1e6" and self.outputs > 2:  # two classes are a row anyway
            names += ["filtune-top-k"]
        if self.state == "1e4" and self.outputs < 100:
            names += ["tensor", "full"]
        return names


def grid() -> Iterator[GridPoint]:
    """Yield every size with every number of outputs, and batches for the middle size and few outputs."""
    yield from (GridPoint(state, outputs, 1) for state in STATES for outputs in OUTPUTS)
    yield from (GridPoint("1e5", outputs, batch) for outputs in (2, 10) for batch in BATCHES if batch > 1)


def measure_point(cell: GridPoint, seconds: float, device: torch.device) -> dict[str, Any]:
    """Return the figures of all methods at one point."""
    torch.manual_seed(0)
    rank, targets = STATES[cell.state]
    case = transformer(cell.outputs, rank, targets).to(device)
    methods = build_methods(case, cell.optimizers(), cell.outputs, device)
    rounds = interleave(
        methods, batches(case, cell.outputs, cell.batch, device), warmup=2, rounds=1000, seconds=seconds
    )
    n = sum(p.numel() for p in case.parameters() if p.requires_grad)
    return {**cell._asdict(), "trainable_parameters": n, "rounds": rounds, "optimizers": compare_methods(methods)}


def print_grid(cells: list[dict[str, Any]]) -> None:
    """Print the ratios to AdamW and to the floor, and the share of the algebra."""
    names = list(dict.fromkeys(name for cell in cells for name in cell["optimizers"] if name != "adamw"))
    rows = []
    for cell in cells:
        found = cell["optimizers"]
        row = [f"{cell['trainable_parameters']:,}", str(cell["outputs"]), str(cell["batch"])]
        row += [f"{1000 * found['adamw']['median_seconds']:.1f}", *(_entry(found.get(name)) for name in names)]
        rows.append(row)
    title = "ratio to AdamW, ratio to the floor, algebra in % of the step"
    Console(width=170).print(terminal_table(title, ("n", "m", "B", "AdamW, ms", *names), rows))


def _entry(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    share = figures.get("algebra_share")
    ratios = f"{figures['ratio_to_adamw']:.2f} {figures['ratio_to_floor']:.2f}"
    return ratios if share is None else f"{ratios} {100 * share:.0f}"


def plot_grid(cells: list[dict[str, Any]], target: Path) -> None:
    """Plot the ratio to AdamW against m for each size of the state, and against B."""
    names = dict.fromkeys(name for cell in cells for name in cell["optimizers"])
    styles = looks((name, name, "tuned" if "floor" in name else "paper") for name in names)
    single = [cell for cell in cells if cell["batch"] == 1]
    few = [cell for cell in cells if cell["state"] == "1e5" and cell["outputs"] == 2]
    panels = {f"n ≈ {state}, batch 1": [cell for cell in single if cell["state"] == state] for state in STATES}
    handles: dict[str, Any] = {}
    with new_figure(1, len(STATES) + 1, (15, 4.2)) as (figure, axes):
        for axis, (title, found) in zip(axes[0], {**panels, "n ≈ 1e5, two outputs": few}.items(), strict=True):
            over = "batch" if found is few else "outputs"
            for name in names:
                points = [(c[over], c["optimizers"][name]["ratio_to_adamw"]) for c in found if name in c["optimizers"]]
                if points:
                    handles[name] = draw_mean(axis, *zip(*points, strict=True), styles[name], marker="o")
            axis.set(title=title, xlabel="batch B" if found is few else "outputs m")
            log_scale(axis, "x")
            log_scale(axis, "y")
            axis.set_xticks(sorted({cell[over] for cell in found}))
            axis.sharey(axes[0, 0])
        axes[0, 0].set_ylabel("step time, ratio to AdamW")
        draw_legend(figure, handles, styles)
        save_png(figure, target)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", nargs="+", choices=STATES, default=list(STATES))
    parser.add_argument("--outputs", nargs="+", type=int, choices=OUTPUTS, default=list(OUTPUTS))
    parser.add_argument("--batches", nargs="+", type=int, choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=12, help="for a point of the grid, but at least three rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="path of the JSON and the PNG, without suffix")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    device, cells = torch.device(options.device), []
    for cell in grid():
        if cell.state in options.states and cell.outputs in options.outputs and cell.batch in options.batches:
            print(f"n ~ {cell.state}, m = {cell.outputs}, B = {cell.batch}", flush=True)
            cells.append(measure_point(cell, options.seconds, device))
    print_grid(cells)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"cells": cells, "environment": describe_environment(device, options.threads)}
        options.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        plot_grid(cells, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
