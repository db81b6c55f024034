"""``filtune sweep``: search the options of a configuration, over several seeds."""

from __future__ import annotations

import argparse
import math
import re
from contextlib import closing
from pathlib import Path

import yaml
from filtune.lightning_modules.atomic import atomic_write
from filtune.lightning_modules.legacy import has_renamed_options, translate_figure, translate_key
from rich.console import Console

from filtune.suggestions import suggest

from .availability import needs
from .cells import CURVES
from .classes import check_option
from .composition import Config, compose, grid_points, lookup, notice, parse_options, point_name
from .escaping import plain
from .estimate import format_duration, run_size
from .fields import TIMES
from .runner import Runner, add_run_options, read_folders, read_launcher, shown_command
from .runs import localise
from .search import PRUNERS, SAMPLERS, GridPoint, SearchSpace, read_grid, read_ranges
from .trial_runs import TrialRuns, show_results
from .trials import Sweep

EXAMPLES = """examples:
  filtune sweep --config task/digits --config backbone/lenet5 --config optimizer/adamw_1e-3 \\
    --grid optimizer.lr=1e-4,3e-4,1e-3,3e-3,1e-2 --seeds 3
  filtune sweep ... --halving 3     the lower two thirds of the points are stopped early
  filtune sweep ... --sampler tpe --trials 40 --range optimizer.lr=1e-5,1e-1,log
  filtune sweep ... --storage postgresql://user@host/studies     shared by several machines

The same command in a second terminal shares the work. optuna-dashboard shows the storage, by default a file below
ROOT/storage.
"""


def main(args: list[str]) -> int:
    """Run the command ``filtune sweep``; return 1 where a run could not be made. Invalid options are an error."""
    options, rest = _parser().parse_known_args(args)
    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: must be at least 1")
    _check_names(options.name, options.metric)
    config = compose(["trainer/auto", *options.config], _read_rest(rest))
    if lookup(config, "trainer.log_every_n_steps") is None:
        config = compose([], config, CURVES)
    for key in ("data", "model", "optimizer"):
        if not config.get(key):
            raise ValueError(f"--config: nothing says what {key} is; name a task, a backbone and an optimizer")
    if lookup(config, "trainer.fast_dev_run"):
        raise ValueError("trainer.fast_dev_run: leaves no result to compare; try the configuration with filtune fit")
    if lookup(config, "run.baselines"):
        notice("run.baselines is left out: a sweep compares the points of its grid")
    folders, launcher = read_folders(options.local), read_launcher(options)
    for need in needs(config, folders):
        if need.where == "missing":
            raise ValueError(f"{need.kind} {need.name}: {need.reason}")
    sweep = _read_sweep(options, config, folders)
    console = Console(markup=False, emoji=False)
    runner = Runner(launcher, console, options.resume_changed == "true")
    if options.dry_run:
        _show_plan(runner, sweep)
        return 0
    with runner.store.lock(shared=True), closing(TrialRuns(sweep, runner.store, options.storage)) as search:
        outcome = runner.execute(search)
        show_results(console, search)
        point = search.best(outcome.failures)
        best = options.root / f"{search.name}.yaml"
        with atomic_write(best) as file:
            yaml.safe_dump(localise(compose([], config, point), folders), file, sort_keys=False)
    words = f"best: {plain(point_name(point)) or 'the only one'}; {shown_command('filtune fit --config', best)}"
    console.print(words, highlight=False, soft_wrap=True)
    console.print(f"see  {shown_command('filtune report', options.root)}", highlight=False, soft_wrap=True)
    return 1 if outcome.failures else 0


def _read_sweep(options: argparse.Namespace, config: Config, folders: dict[str, str]) -> Sweep:
    """Return the sweep that the options describe.

    Raises:
        ValueError: If one is wrong.
    """
    sampler, pruner = options.sampler, options.pruner
    for option, name, known in (("--sampler", sampler, SAMPLERS), ("--pruner", pruner or PRUNERS[0], PRUNERS)):
        if name not in known:
            raise ValueError(f"{option} {name}: no such {option[2:]}; {suggest(name, known)}")
    if options.halving is not None and options.halving < 2:
        raise ValueError(f"--halving {options.halving}: must be at least 2: one point of so many goes on")
    pruner = pruner or ("halving" if options.halving else None)
    parts = _part(options.config, "task"), _part(options.config, "backbone")
    if pruner and run_size(config, parts[0]) is None:
        raise ValueError(f"--pruner {pruner}: the length of the stream is not known; say --data.max_samples")
    metric = translate_figure(options.metric)
    if pruner and not metric.startswith(("online_", "val_")):
        raise ValueError(f"--pruner {pruner}: --metric {options.metric} is not known before the end of a run")
    if options.halving and pruner != "halving":
        raise ValueError(f"--halving {options.halving}: is the pruner halving, --pruner says {pruner}; leave one out")
    is_once = all(lookup(config, f"trainer.{name}") in (None, 1) for name in ("max_epochs", "val_check_interval"))
    if pruner and is_once and metric.startswith("val_"):
        raise ValueError(
            f"--pruner {pruner}: --metric {options.metric} is known at the end of a run alone; "
            "take an online metric, or set trainer.val_check_interval"
        )
    grid = read_grid(options.grid)
    ranges = read_ranges(options.range, sampler, grid)
    if has_renamed_options(lookup(config, "optimizer.class_path")):
        grid = {translate_key(key): values for key, values in grid.items()}
        ranges = {translate_key(key): bounds for key, bounds in ranges.items()}
    for option, keys in (("--grid", grid), ("--range", ranges)):
        for key in keys:
            check_option(config, key, option)
    trials = options.trials
    if (trials is None) != (sampler == "grid"):
        raise ValueError(
            f"--sampler {sampler}: needs --trials, the number of points" if trials is None else
            f"--trials {trials}: a grid is tried at all of its points; say --sampler random or tpe"
        )  # fmt: skip
    if trials is not None and trials < 1:
        raise ValueError(f"--trials {trials}: must be at least 1")
    if sampler != "grid" and not grid and not ranges:
        raise ValueError(f"--sampler {sampler}: there is nothing to search; say --range or --grid")
    return Sweep(
        name=options.name, config=config, parts=parts, space=SearchSpace(grid, ranges), sampler=sampler,
        total=trials or len(grid_points(grid)), seeds=list(range(options.seeds)), metric=options.metric,
        pruner=pruner, rate=options.halving or 3, folders=folders,
    )  # fmt: skip


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
    """Return options of the run: ``--data.max_samples 1000``, or with an equals sign."""
    pairs, words = [], iter(rest)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--run.root":
            raise ValueError("--run.root: the runs of a sweep are kept below its root; say --root")
        if not name.startswith("--") or "." not in name:
            raise ValueError(f"{word}: not an option; see filtune sweep --help")
        if not equals and (given := next(words, None)) is None:
            raise ValueError(f"{word}: is to have a value")
        pairs.append(f"{name[2:]}={value if equals else given}")
    return parse_options(pairs, "--")


def _part(configs: list[str], kind: str) -> str:
    """Name of the task or backbone among the configurations."""
    found = [Path(name).stem for name in configs if kind in Path(name).parts]
    return found[-1] if found else "own"


def _show_plan(runner: Runner, sweep: Sweep) -> None:
    points = grid_points(sweep.space.grid) if sweep.sampler == "grid" else []
    job = sweep.jobs(points[0] if points else {})[0]
    each = runner.estimator.seconds(job.config, *sweep.parts)
    total = math.nan if each is None else each * sweep.total * len(sweep.seeds)
    workers = runner.launcher.workers
    known = "of unknown time" if math.isnan(total) else f"about {format_duration(total / workers)}"
    size = run_size(job.config, sweep.parts[0])
    pruned = f"; less by the pruner {sweep.pruner}" if sweep.pruner else ""
    words = f"{sweep.total} points, {len(sweep.seeds)} seeds, {size.samples if size else 'all'} samples: "
    runner.console.print(f"{words}{known} with {workers} at a time{pruned}", highlight=False)
    for point in points:
        runner.console.print(f"  {point_name(point) or 'as it is'}", highlight=False)
    if not points:
        runner.console.print(f"  drawn by the sampler {sweep.sampler}", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="filtune sweep",
        description="Search the options of a configuration by Optuna. Further options are those of `filtune fit`, such "
        "as --data.max_samples 1000. Completed runs are skipped; interrupted runs resume.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", action="append", required=True, help="a configuration, by name or path; repeated")
    add("--grid", action="append", default=[], metavar="KEY=V,V", help="values of an option; repeated for a product")
    add(
        "--range", action="append", default=[], metavar="KEY=LOW,HIGH[,log]",
        help="bounds of an option, between which --sampler random or tpe draws; may be repeated",
    )  # fmt: skip
    add("--sampler", default="grid", metavar="NAME", help=f"which points are tried: {', '.join(SAMPLERS)}")
    add("--trials", type=int, metavar="N", help="points that --sampler random or tpe draws")
    add("--seeds", type=int, default=1, help="seeds 0 to SEEDS - 1 (default: 1)")
    add("--metric", default="online_accuracy", help="metric to optimise (default: online_accuracy)")
    add("--pruner", metavar="NAME", help=f"stop points early that do worse than others: {', '.join(PRUNERS)}")
    add(
        "--halving", type=int, metavar="N",
        help="one point of N goes on, with N times the samples (implies --pruner halving; default 3)",
    )  # fmt: skip
    add(
        "--storage", metavar="PATH|URL",
        help="journal file or database of Optuna that several processes share (default: a file below ROOT/storage)",
    )  # fmt: skip
    add("--name", default="sweep", help="name of its manifest, of the best configuration and of the study")
    add_run_options(parser, "runs/sweep")
    return parser
