"""``filtune compare RUN...``: finished runs side by side, as a table and as online curves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filtune.experiments.escaping import plain
from filtune.experiments.run_folder import RunFolder, find_runs, read_runs
from filtune.experiments.terminal import terminal_table
from filtune.lightning_modules.atomic import atomic_path
from rich.console import Console
from rich.table import Table

from .class_tables import joint_predictions
from .figures import Line, drawn_figure, plan_curves
from .formatting import is_of_segment
from .labels import run_labels
from .listings import run_record
from .plots import looks_of
from .report import warn_of

FORMATS = (".png", ".svg", ".pdf", ".jpg")
"""Ends of the names of plots."""

LEGEND = """\
online: every sample is predicted before the model learns from it; the loss is the mean of the last 1000 at most
val: samples that are never learned from; ms per step: median time of a step"""
"""Meaning of the columns of the table, for the terminal."""


def labelled(runs: Sequence[RunFolder]) -> list[str]:
    """Return a label for each run, with its seed where there are several."""
    seeds = [run.config.get("seed_everything") for run in runs]
    several = len({str(seed) for seed in seeds}) > 1
    return [f"{name} seed {seed}" if several else name for name, seed in zip(run_labels(runs), seeds, strict=True)]


def results_table(runs: list[RunFolder], left_out: Sequence[str] = ()) -> Table:
    """Return the results of runs as a table, one row each, and a row for each that is left out."""
    scores = sorted({name for run in runs for name in run.summary.get("val", {}) if not is_of_segment(name)})
    online = sorted({name for run in runs if (name := online_score(run.summary))})
    headings = [*(k.replace("_", "\n", 1) for k in online), "online\nloss", *(f"val\n{name}" for name in scores)]
    rows = []
    for label, run in zip(labelled(runs), runs, strict=True):
        s = run.summary
        if not s:
            rows.append((label, "not finished"))
            continue
        seconds = s.get("seconds_per_step")
        rows.append(
            (
                label,
                str(s["samples"]),
                *(_figure(s.get(k), 2) for k in online),
                _figure(s.get("online_loss"), 4),
                *(_figure(s.get("val", {}).get(name), 4 if name == "loss" else 2) for name in scores),
                _figure(seconds and 1000 * seconds, 2),
            )
        )
    rows += [(plain(reason), "left out") for reason in left_out]
    return terminal_table(_title(runs), ["run", "samples", *headings, "ms per\nstep"], rows)


def online_score(summary: dict[str, Any]) -> str | None:
    """Return the name of a run's score in its summary, such as ``online_accuracy``; None where it has none.

    Summaries of earlier releases do not name it: theirs is the accuracy or Pearson's correlation.
    """
    named = summary.get("score")
    names = [f"online_{named}"] if named else ["online_accuracy", "online_pearson"]
    return next((name for name in names if name in summary), None)


def class_table(runs: Sequence[RunFolder]) -> Table | None:
    """Return the F1 of each class of the online predictions, seeds together; None where classes differ."""
    contents: dict[str, list[dict[str, Any]]] = {}
    for label, run in zip(run_labels(runs), runs, strict=True):
        try:
            contents.setdefault(label, []).extend(filter(None, [run.predictions()]))
        except (ValueError, OSError) as error:
            warn_of([f"{error}: predictions left out"])
    found = {label: joint_predictions(enumerate(several)) for label, several in contents.items()}
    counted = {label: p for label, p in found.items() if p is not None and p.confusion is not None}
    classes = {tuple(predictions.classes) for predictions in counted.values()}
    if len(classes) != 1:
        return None
    scores = [predictions.scores()[:, 2] for predictions in counted.values()]
    rows = (
        (plain(name), *("" if np.isnan(score[i]) else f"{score[i]:.1f}" for score in scores))
        for i, name in enumerate(classes.pop())
    )
    return terminal_table("F1 by class (%), online predictions", ["class", *counted], rows)


def print_folders(runs: Sequence[RunFolder], console: Console) -> None:
    """Print the folder of each run."""
    for label, run in zip(labelled(runs), runs, strict=True):
        console.print(f"run  {label}: {plain(run.folder)}", highlight=False, soft_wrap=True)


def print_runs(folders: list[Path]) -> None:
    """Print the results with the meaning of the columns, the paths of the logs, and the next commands."""
    console = Console(markup=False, emoji=False)
    runs, left_out = read_runs(folders)
    warn_of(left_out)
    console.print(results_table(runs, left_out))
    console.print(LEGEND, highlight=False, soft_wrap=True)
    for folder in folders:
        console.print(f"log  {plain(folder)}", highlight=False, soft_wrap=True)
    if any(path for folder in folders for path in folder.glob("events.out.tfevents.*")):
        console.print(f"see  tensorboard --logdir {plain(folders[0].parents[1])}", highlight=False, soft_wrap=True)
    report = f"filtune report {plain(folders[0].parents[2])}"
    console.print(f"next {report} (one page of all runs); filtune fit --help", highlight=False, soft_wrap=True)


def plot_runs(runs: list[RunFolder], target: Path) -> None:
    """Draw the online score and the windowed loss of the runs over the samples."""
    scores = [name for run in runs if (name := online_score(run.summary))]
    score = scores[0].replace("_", "/", 1) if scores else "online/accuracy"
    names = labelled(runs)
    styles = looks_of([(name, name.split()[0]) for name in names])
    lines = [Line(name, styles[name], {"": [run_record(run)]}) for name, run in zip(names, runs, strict=True)]
    plan = plan_curves(target.stem, _title(runs), [("", "", "")], [score, "online/loss"], lines)
    with drawn_figure(plan) as figure, atomic_path(target) as temporary:
        figure.suptitle(_title(runs))
        figure.savefig(temporary, dpi=130)


def main(args: list[str]) -> None:
    """Run the command ``filtune compare``; an output of an unknown format is an error."""
    parser = argparse.ArgumentParser(
        prog="filtune compare", description="Show finished runs side by side, as a table and as online curves."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of several runs")
    parser.add_argument("--output", type=Path, default=Path("compare.png"), help="the plot (default: compare.png)")
    options = parser.parse_args(args)
    if options.output.suffix.lower() not in FORMATS or options.output.is_dir():
        raise ValueError(f"--output: {options.output}: name a file that ends in one of {', '.join(FORMATS)}")
    runs, left_out = _read_runs(options.runs)
    warn_of(left_out)
    console = Console(markup=False, emoji=False)
    console.print(results_table(runs, left_out))
    if table := class_table(runs):
        console.print(table)
    print_folders(runs, console)
    plot_runs(runs, options.output)
    console.print(f"plot {plain(options.output)}", highlight=False)
    report = " ".join(dict.fromkeys(map(plain, options.runs)))
    if any(run.summary for run in runs):  # a report has nothing to show of the others
        console.print(f"next filtune report {report} (one page of all)", highlight=False, soft_wrap=True)


def _title(runs: list[RunFolder]) -> str:
    return plain(", ".join(sorted({f"{r.summary['task']} / {r.summary['backbone']}" for r in runs if r.summary})))


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _read_runs(paths: list[Path]) -> tuple[list[RunFolder], list[str]]:
    """Read the runs; those that cannot be read are left out.

    Raises:
        ValueError: If there is none, or none that can be read.
    """
    try:
        folders = [folder for path in paths for folder in find_runs(path)]
    except ValueError as error:
        raise ValueError(f"compare: {error}") from error
    runs, left_out = read_runs(list(dict.fromkeys(folders)))
    if not runs:
        raise ValueError(f"compare: no run can be read: {'; '.join(left_out)}")
    return runs, left_out
