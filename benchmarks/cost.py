"""Cost of a step relative to AdamW's and to the floor, as a table of models, sizes and batches, with a plot.

``filters`` has every filter over outputs, size of the state and batch, under eight minutes on two cores; ``classes``
Filtune over the number of classes; ``sizes`` the low-rank filters over the number of parameters; ``memory`` the state
and the peak of a step of every covariance; ``jacobian`` the vectorised Jacobian beside a loop of single passes, for
every kind of layer; ``natural`` the lazy steps, refreshes and periods of natural gradients; ``table3`` the twelve pairs
of LoKO's Table 3. How methods are compared is described in :mod:`benchmarks.timing`.

    python -m benchmarks.cost --threads 1 --output docs/results/cost
    python -m benchmarks.cost classes --threads 1 --output docs/results/cost_classes
    python -m benchmarks.cost sizes --threads 1 --output docs/results/cost_sizes
    python -m benchmarks.cost memory --threads 1 --output docs/results/cost_memory
    python -m benchmarks.cost jacobian --threads 1 --output docs/results/cost_jacobian
    python -m benchmarks.cost natural --threads 1 --output docs/results/natural_cost
    python -m benchmarks.cost table3 --points "*/ResNet18" --rounds 3
    python -m benchmarks.cost table3 --device cuda --methods adamw loko loko-graph loko-plain-attention
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filtune.experiments.terminal import terminal_table
from filtune.reports.plots import draw_legend, draw_mean, log_scale, looks, new_figure, save_png
from rich.console import Console

from benchmarks.methods import OPTIMIZERS
from benchmarks.tables import TABLES
from benchmarks.timing import Point, measure_points, parser_of

AIMS = {"ngd": {"refresh": 1.5}, "ring": {"lazy": 1.05, "period": 1.10}, "reng": {"lazy": 1.05, "period": 1.25}}
"""Ratios to AdamW that are aimed at, of natural gradients."""

FIGURES = {
    "ms / step": ("median_seconds", 1000.0, 2),
    "/ AdamW": ("ratio_to_adamw", 1.0, 2),
    "sum / AdamW": ("ratio_of_sums_to_adamw", 1.0, 2),
    "/ floor": ("ratio_to_floor", 1.0, 2),
    "lazy": ("lazy", 1.0, 2),
    "refresh": ("refresh", 1.0, 2),
    "period": ("period", 1.0, 2),
    "algebra, %": ("algebra_share", 100.0, 1),
    "peak of a step, MiB": ("peak_step_bytes", 2.0**-20, 1),
    "state, MiB": ("state_bytes", 2.0**-20, 2),
    "memory / AdamW": ("memory_ratio_to_adamw", 1.0, 2),
}
"""Columns of a table: the figure, its scale and its digits."""


def print_points(points: list[dict[str, Any]]) -> None:
    """Print the figures of every method, one table for each point."""
    for point in points:
        found = point["optimizers"]
        heads = [head for head, (key, *_) in FIGURES.items() if any(key in own for own in found.values())]
        rows = []
        for name, own in found.items():
            cells = []
            for key, scale, digits in (FIGURES[head] for head in heads):
                aim = AIMS.get(name, {}).get(key)
                text = f"{scale * own[key]:.{digits}f}" if key in own else ""
                cells.append(f"{text} (aim {aim:.2f})" if text and aim else text)
            rows.append((name, *cells))
        size = f"{point['outputs']} outputs, batch {point['batch']}, n = {point['trainable_parameters']:,}"
        published = f"; LoKO / AdamW in the paper: {point['published']:.1f}" if point["published"] else ""
        title = f"{point['name']} ({size}, {point['rounds']} rounds{published})"
        Console(width=150).print(terminal_table(title, ("method", *heads), rows))


def plot_points(points: list[dict[str, Any]], target: Path, figure_name: str = "ratio_to_adamw") -> None:
    """Plot a ratio to AdamW, of a period where a method has one, over outputs or batches or at each point."""
    what = "memory" if figure_name == "memory_ratio_to_adamw" else "step time"
    names = list(dict.fromkeys(name for point in points for name in point["optimizers"]))
    styles = looks((name, name, "tuned" if "floor" in name else "paper") for name in names)
    panels: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        panels.setdefault(point["panel"], []).append(point)
    columns, handles = min(len(panels), 4), dict[str, Any]()
    rows = -(-len(panels) // columns)
    with new_figure(rows, columns, (max(3.6 * columns, 8), 3.6 * rows)) as (figure, axes):
        for axis, (title, own) in zip(axes.flat, panels.items(), strict=False):
            is_scaled = own[0]["x"] is not None
            places = [point["x"] if is_scaled else place for place, point in enumerate(own)]
            for name in names:
                pairs = [
                    (x, p["optimizers"][name])
                    for x, p in zip(places, own, strict=True)
                    if figure_name in p["optimizers"].get(name, {})
                ]
                if pairs:
                    drawn = [(x, found.get("period", found[figure_name])) for x, found in pairs]
                    style = {} if is_scaled else {"linestyle": "none"}
                    handles[name] = draw_mean(axis, *zip(*drawn, strict=True), styles[name], marker="o", **style)
            axis.set(title=title, ylabel=f"{what}, ratio to AdamW")
            log_scale(axis, "y")
            if is_scaled:
                log_scale(axis, "x")
                axis.set_xticks(places)
            else:
                axis.set_xticks(places, [point["name"].replace(", ", "\n") for point in own], fontsize="small")
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        draw_legend(figure, handles, styles)
        save_png(figure, target)


def check_methods(names: list[str], options: argparse.Namespace, parser: argparse.ArgumentParser, option: str) -> None:
    """End with a message where the reference is not among the methods, or one cannot run on the device."""
    if "adamw" not in names:
        parser.error(f"{option}: adamw is the reference and must be among them")
    if any(OPTIMIZERS[name].has_graph for name in names) and options.device.type != "cuda":
        parser.error(f"{option}: there are graphs on a CUDA device alone; take --device cuda")


def main(args: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("table", nargs="?", choices=TABLES, default="filters")
    parser.add_argument("--points", nargs="+", metavar="PATTERN", help='only points of these names, such as "minilm*"')
    parser.add_argument("--methods", nargs="+", choices=OPTIMIZERS, help="in place of those of each point")
    parser.set_defaults(rounds=None)
    options = parser.parse_args(args)
    table = TABLES[options.table]
    if options.methods:
        check_methods(options.methods, options, parser, "--methods")
    options.rounds = table.rounds if options.rounds is None else options.rounds
    options.seconds = table.seconds if options.seconds is None else options.seconds
    every, patterns = list(table.points()), options.points or table.default
    chosen: list[Point] = [point for point in every if any(fnmatch(point.name, pattern) for pattern in patterns)]
    if not chosen:
        parser.error(f"--points: none has such a name; there are {'; '.join(point.name for point in every)}")
    if options.methods:
        chosen = [point._replace(methods=options.methods) for point in chosen]
    points = measure_points(chosen, options)
    print_points(points)
    if options.output:
        plot_points(points, options.output.with_suffix(".png"), table.figure)


if __name__ == "__main__":
    main()
