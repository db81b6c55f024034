"""``filtune sweep``: one configuration over a grid of options and several seeds, so that "tuned" is one command."""

from __future__ import annotations

import argparse
import math
import statistics
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table as Grid

from experiments.availability import needs
from experiments.composition import Config, compose, fingerprint, grid_points, parse_options, point_name
from experiments.estimate import Estimator, clock, size
from experiments.options import add_run_options, read_folders, read_workers
from experiments.records import FORMAT, Store
from experiments.runner import Runner
from experiments.runs import Job
from experiments.search import Point, Rung, at, rank, read_grid, rungs, score

EXAMPLES = """examples:
  filtune sweep --config task/digits --config backbone/lenet5 --config optimizer/adamw_1e-3 \\
    --grid optimizer.lr=1e-4,3e-4,1e-3,3e-3,1e-2 --seeds 3
  filtune sweep ... --halving 3     the worse two thirds drop out, the rest get three times the samples
"""


def main(args: list[str]) -> int:
    """The command; 1 where a run could not be made."""
    options, rest = _parser().parse_known_args(args)
    console = Console()
    grid = read_grid(options.grid)
    config = compose(["trainer/auto", *options.config], _read_rest(rest))
    for key in ("data", "model", "optimizer"):
        if not config.get(key):
            raise ValueError(f"--config: nothing says what {key} is; name a task, a backbone and an optimizer")
    folders, (workers, threads) = read_folders(options.local), read_workers(options)
    for need in needs(config, folders):
        if need.where == "missing":
            raise ValueError(f"{need.kind} {need.name}: {need.reason}")
    task, backbone = (_part(options.config, kind) for kind in ("task", "backbone"))
    large = size(config, task)
    points, seeds = grid_points(grid), list(range(options.seeds))
    rounds = rungs(len(points), large and large.samples, options.halving)
    if options.dry_run:
        _show_plan(console, points, partial(at, config), (task, backbone), rounds, len(seeds), workers)
        return 0
    sweep = {"name": options.name, "grid": grid, "metric": options.metric, "halving": options.halving}
    manifest: dict[str, Any] = {"format": FORMAT, "table": None, "sweep": sweep, "scale": {}, "seeds": seeds}
    manifest |= {"cells": {}, "missing": {}}
    store, failed = Store(options.root), False
    with store.lock():
        for rung in rounds:
            jobs = {
                point_name(point): [
                    _job(at(config, point, rung.samples), seed, task, backbone, folders) for seed in seeds
                ]
                for point in points
            }
            for name, found in jobs.items():
                label = f"{name or 'as it is'}{f', {rung.samples} samples' if rung.samples else ''}"
                manifest["cells"][label] = {str(job.seed): job.key for job in found}
            store.write_manifest(options.name, manifest)
            outcome = Runner(store, workers, threads, console).execute([*chain(*jobs.values())])
            failed = failed or bool(outcome.failures)
            scores = {name: score(found, outcome.records, options.metric) for name, found in jobs.items()}
            points = sorted(points, key=lambda p, of=scores: rank(of[point_name(p)], options.metric))
            _show(console, points, scores, options.metric, rung.samples)
            points = points[: rung.kept]
        best = store.root / f"{options.name}.yaml"
        if not scores[point_name(points[0])]:
            raise ValueError(f"--metric {options.metric}: no point has this figure of all seeds; see {store.root}")
        best.write_text(yaml.safe_dump(at(config, points[0], None), sort_keys=False))
    console.print(
        f"best: {point_name(points[0]) or 'the only one'}; filtune fit --config {best}", highlight=False, soft_wrap=True
    )
    console.print(f"see  filtune report {store.root}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def _read_rest(rest: list[str]) -> Point:
    """Options of the run: ``--data.max_samples 1000``, or with an equals sign."""
    pairs: list[str] = []
    waiting = None
    for word in rest:
        if waiting:
            pairs.append(f"{waiting}={word}")
            waiting = None
        elif not word.startswith("--") or "." not in word.partition("=")[0]:
            raise ValueError(f"{word}: not an option; see filtune sweep --help")
        elif "=" in word:
            pairs.append(word[2:])
        else:
            waiting = word[2:]
    if waiting:
        raise ValueError(f"--{waiting}: is to have a value")
    return parse_options(pairs, "--")


def _part(configs: list[str], kind: str) -> str:
    """Name of the task or backbone among the configurations."""
    found = [Path(name).stem for name in configs if kind in Path(name).parts]
    return found[-1] if found else "own"


def _job(config: Config, seed: int, task: str, backbone: str, folders: dict[str, str]) -> Job:
    name = f"{str(config['optimizer'].get('class_path')).rpartition('.')[2]} seed {seed}"
    return Job(fingerprint(config, seed), config, seed, task, backbone, name, folders)


def _show_plan(
    console: Console,
    points: list[Point],
    made: Any,
    parts: tuple[str, str],
    rounds: list[Rung],
    seeds: int,
    workers: int,
) -> None:
    estimator, total, left = Estimator(), 0.0, len(points)
    for rung in rounds:
        each = estimator.seconds(made(points[0], rung.samples), *parts)
        total += left * seeds * (math.nan if each is None else each)
        console.print(f"{left} points, {seeds} seeds, {rung.samples or 'all'} samples", highlight=False)
        left = rung.kept
    for point in points:
        console.print(f"  {point_name(point) or 'as it is'}", highlight=False)
    known = "of unknown time" if math.isnan(total) else f"about {clock(total / workers)}"
    console.print(f"{known} with {workers} at a time", highlight=False)


def _show(
    console: Console, ranked: list[Point], scores: dict[str, list[float]], metric: str, samples: int | None
) -> None:
    grid = Grid(title=f"{metric.replace('_', ' ')}{f', {samples} samples' if samples else ''}, best first")
    for heading in ("point", "mean", "deviation", "seeds"):
        grid.add_column(heading, justify="left" if heading == "point" else "right")
    for point in ranked:
        values = scores[point_name(point)]
        deviation = f"{statistics.stdev(values):.3f}" if len(values) > 1 else ""
        mean = f"{statistics.fmean(values):.3f}" if values else "diverged or failed"
        grid.add_row(point_name(point) or "as it is", mean, deviation, str(len(values)))
    console.print(grid)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="filtune sweep",
        description="Run a configuration over a grid of options. Further options are those of `filtune fit`, such as "
        "--data.max_samples 1000. What is done is not done again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="append", required=True, help="a configuration, by name or path; repeated")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=V,V", help="values of an option; repeated for a product"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to SEEDS - 1 (default: 1)")
    parser.add_argument(
        "--metric", default="online_accuracy", help="the figure to be best at (default: online_accuracy)"
    )
    parser.add_argument(
        "--halving", type=int, metavar="N", help="successive halving: keep one point of N, with N times the samples"
    )
    parser.add_argument("--name", default="sweep", help="name of its manifest and of the best configuration")
    add_run_options(parser, "runs/sweep")
    return parser
