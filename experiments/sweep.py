"""``filtune sweep``: run a configuration over a grid of options and several seeds."""

from __future__ import annotations

import argparse
import math
import re
import statistics
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from filtune.lightning_modules.atomic import atomic_write
from filtune.lightning_modules.legacy import has_renamed_options, translate_figure, translate_key
from rich.console import Console
from rich.table import Table as Grid

from .availability import needs
from .classes import check_option
from .composition import Config, compose, grid_points, lookup, notice, parse_options, point_name
from .escaping import plain
from .estimate import format_duration, run_size
from .fields import TIMES
from .keys import run_key
from .records import FORMAT, Store
from .runner import Runner, add_run_options, read_folders, read_workers, shown_command
from .runs import Job, localise
from .search import GridPoint, Rung, config_at, point_values, rank, read_grid, rungs
from .suggestions import suggest

EXAMPLES = """examples:
  filtune sweep --config task/digits --config backbone/lenet5 --config optimizer/adamw_1e-3 \\
    --grid optimizer.lr=1e-4,3e-4,1e-3,3e-3,1e-2 --seeds 3
  filtune sweep ... --halving 3     the worse two thirds drop out, the rest get three times the samples
"""


@dataclass(frozen=True)
class Sweep:
    """A configuration over a grid.

    Attributes:
        name: Name of its manifest and of the best configuration.
        config: The configuration, composed.
        parts: Names of the task and the backbone.
        grid: Values by dotted key.
        seeds: Seeds of every point.
        metric: Metric to optimise.
        halving: One point of so many is kept in each round; none for one round.
        folders: Where hub ids lie on this machine.
    """

    name: str
    config: Config
    parts: tuple[str, str]
    grid: dict[str, list[Any]]
    seeds: list[int]
    metric: str
    halving: int | None
    folders: dict[str, str]

    def rounds(self) -> list[Rung]:
        """Return the rounds: how long points are run, and how many go on."""
        large = run_size(self.config, self.parts[0])
        return rungs(len(grid_points(self.grid)), large and large.samples, self.halving)

    def jobs(self, points: list[GridPoint], rung: Rung) -> dict[str, list[Job]]:
        """Return the runs of a round, by name of the point."""
        found: dict[str, list[Job]] = {}
        for point in points:
            config, name = config_at(self.config, point, rung.samples), point_name(point)
            found[name] = [
                Job(run_key(config, seed), config, seed, *self.parts, f"{name} seed {seed}", self.folders)
                for seed in self.seeds
            ]
        return found

    def manifest(self, cells: dict[str, dict[str, str]]) -> dict[str, Any]:
        """Return the manifest: which records belong to which point."""
        options = {name: getattr(self, name) for name in ("name", "grid", "metric", "halving")}
        seeds = {"seeds": self.seeds, "cells": cells, "missing": {}}
        return {"format": FORMAT, "table": None, "sweep": options, "scale": {}, **seeds}

    def run(self, runner: Runner) -> tuple[GridPoint, bool]:
        """Run all rounds; the best point, and whether all runs could be made.

        Raises:
            ValueError: If no point has the figure of all seeds.
        """
        points, cells, whole = grid_points(self.grid), {}, True
        for rung in self.rounds():
            jobs = self.jobs(points, rung)
            for name, found in jobs.items():
                label = f"{name or 'as it is'}{f', {rung.samples} samples' if rung.samples else ''}"
                cells[label] = {str(job.seed): runner.store.kept_as(job.key) for job in found}
            runner.store.write_manifest(self.name, self.manifest(cells))
            outcome = runner.execute([*chain(*jobs.values())])
            whole = whole and not outcome.failures
            keys = {name: [job.key for job in found] for name, found in jobs.items()}
            scores = {name: point_values(found, outcome.records, self.metric) for name, found in keys.items()}
            points = sorted(points, key=lambda point, of=scores: rank(of[point_name(point)], self.metric))
            _show(runner.console, points, scores, self.metric, rung.samples)
            if not scores[point_name(points[0])]:
                reason = next(iter(outcome.failures.values()), "")
                failed = f"; {len(outcome.failures)} runs failed, the first with: {reason}" if reason else ""
                raise ValueError(
                    f"--metric {self.metric}: no point has this figure of all seeds{failed}; see {runner.store.root}"
                )
            points = points[: rung.kept]
        return points[0], whole


def main(args: list[str]) -> int:
    """Run the command ``filtune sweep``; return 1 where a run could not be made."""
    options, rest = _parser().parse_known_args(args)
    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: must be at least 1")
    _check_names(options.name, options.metric)
    config = compose(["trainer/auto", *options.config], _read_rest(rest))
    for key in ("data", "model", "optimizer"):
        if not config.get(key):
            raise ValueError(f"--config: nothing says what {key} is; name a task, a backbone and an optimizer")
    if lookup(config, "trainer.fast_dev_run"):
        raise ValueError("trainer.fast_dev_run: leaves no result to compare; try the configuration with filtune fit")
    if lookup(config, "run.baselines"):
        notice("run.baselines is left out: a sweep compares the points of its grid")
    folders, (workers, threads) = read_folders(options.local), read_workers(options)
    for need in needs(config, folders):
        if need.where == "missing":
            raise ValueError(f"{need.kind} {need.name}: {need.reason}")
    parts = _part(options.config, "task"), _part(options.config, "backbone")
    grid, seeds = read_grid(options.grid), list(range(options.seeds))
    if has_renamed_options(lookup(config, "optimizer.class_path")):
        grid = {translate_key(key): values for key, values in grid.items()}
    for key in grid:
        check_option(config, key, "--grid")
    sweep = Sweep(options.name, config, parts, grid, seeds, options.metric, options.halving, folders)
    runner = Runner(
        Store(options.root), workers, threads, Console(markup=False, emoji=False), options.resume_changed == "true"
    )
    if options.dry_run:
        _show_plan(runner, sweep)
        return 0
    with runner.store.lock():
        point, whole = sweep.run(runner)
        best = options.root / f"{options.name}.yaml"
        with atomic_write(best) as file:
            yaml.safe_dump(localise(config_at(config, point, None), folders), file, sort_keys=False)
    words = f"best: {plain(point_name(point)) or 'the only one'}; {shown_command('filtune fit --config', best)}"
    runner.console.print(words, highlight=False, soft_wrap=True)
    runner.console.print(f"see  {shown_command('filtune report', options.root)}", highlight=False, soft_wrap=True)
    return 0 if whole else 1


def _check_names(name: str, metric: str) -> None:
    """Check the name of the sweep, which is that of files, and the name of its metric.

    Raises:
        ValueError: If one cannot be right.
    """
    if not re.fullmatch(r"[^\W_][\w.,=@ -]{0,99}", name):
        raise ValueError(f"--name {name[:100]!r}: is to be a short name of letters and digits, for it names files")
    known = ("steps_to_convergence", *TIMES)
    if not translate_figure(metric).startswith(("online_", "val_")) and metric not in known:
        near = suggest(metric, ["online_accuracy", "online_loss", "val_accuracy", "val_loss", *known])
        raise ValueError(f"--metric {metric}: no run has this figure; {near}")


def _read_rest(rest: list[str]) -> GridPoint:
    """Options of the run: ``--data.max_samples 1000``, or with an equals sign."""
    pairs: list[str] = []
    waiting = None
    for word in rest:
        if waiting:
            pairs.append(f"{waiting}={word}")
            waiting = None
        elif word.partition("=")[0] == "--run.root":
            raise ValueError("--run.root: the runs of a sweep are kept below its root; say --root")
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


def _show_plan(runner: Runner, sweep: Sweep) -> None:
    total, points = 0.0, grid_points(sweep.grid)
    left = len(points)
    for rung in sweep.rounds():
        each = runner.estimator.seconds(config_at(sweep.config, points[0], rung.samples), *sweep.parts)
        total += left * len(sweep.seeds) * (math.nan if each is None else each)
        runner.console.print(
            f"{left} points, {len(sweep.seeds)} seeds, {rung.samples or 'all'} samples", highlight=False
        )
        left = rung.kept
    for point in points:
        runner.console.print(f"  {point_name(point) or 'as it is'}", highlight=False)
    known = "of unknown time" if math.isnan(total) else f"about {format_duration(total / runner.workers)}"
    runner.console.print(f"{known} with {runner.workers} at a time", highlight=False)


def _show(
    console: Console, ranked: list[GridPoint], scores: dict[str, list[float]], metric: str, samples: int | None
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
        "--data.max_samples 1000. Completed runs are skipped; interrupted runs resume.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="append", required=True, help="a configuration, by name or path; repeated")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=V,V", help="values of an option; repeated for a product"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to SEEDS - 1 (default: 1)")
    parser.add_argument("--metric", default="online_accuracy", help="metric to optimise (default: online_accuracy)")
    parser.add_argument(
        "--halving", type=int, metavar="N", help="successive halving: keep one point of N, with N times the samples"
    )
    parser.add_argument("--name", default="sweep", help="name of its manifest and of the best configuration")
    add_run_options(parser, "runs/sweep")
    return parser
