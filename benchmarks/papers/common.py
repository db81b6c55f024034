"""What the experiments share: options, results that are kept as they are found, tables, plots and JSON."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import transformers
from filtune.lightning_modules.callbacks.summary import commit, device_name, versions
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.papers import learning
from benchmarks.papers.learning import Problem, Rule

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Results = dict[str, list[dict[str, Any]]]

RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates among which AdamW's is chosen."""


EXPLAINED = (ValueError, OSError, FloatingPointError, ImportError)
"""User errors, reported in one line."""


def report_errors(main: Callable[[], None]) -> None:
    """Run an experiment; report user errors in one line."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        main()
    except EXPLAINED as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def parser(doc: str, samples: int, tests: int | None = None) -> argparse.ArgumentParser:
    """The options of every experiment; ``tests`` are the samples of the test split, all by default, 0 for none."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=3, help="seeds 0 to SEEDS - 1 (default: 3)")
    made.add_argument("--samples", type=int, default=samples, help=f"length of the stream (default: {samples})")
    if tests != 0:
        made.add_argument(
            "--test-samples", type=int, default=tests, help=f"of the test split (default: {tests or 'all'})"
        )
    made.add_argument("--runs", type=Path, default=Path("runs/papers"), help="where finished runs are kept")
    made.add_argument("--output", type=Path, help="path of the JSON and the PNG, without suffix")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    return made


def add_images(made: argparse.ArgumentParser) -> None:
    """The option that names the images."""
    made.add_argument(
        "--data", default="ylecun/mnist", help="MNIST, by hub id or folder, or digits, which come with scikit-learn"
    )


def add_texts(made: argparse.ArgumentParser) -> None:
    """The options that name the texts and their backbone."""
    made.add_argument("--glue", default="nyu-mll/glue", help="GLUE, by hub id or folder")
    made.add_argument("--backbone", help="MiniLM, by hub id or folder")


def start(made: argparse.ArgumentParser, args: list[str] | None) -> argparse.Namespace:
    """Read the options and set the threads."""
    options = made.parse_args(args)
    for name, least in (("seeds", 1), ("samples", 2), ("threads", 1)):
        if getattr(options, name) < least:
            made.error(f"--{name}: must be at least {least}, got {getattr(options, name)}")
    torch.set_num_threads(options.threads)
    return options


def images(options: argparse.Namespace, weights: str | None = None) -> Problem:
    """LeNet-5 from scratch."""
    digits = options.data == "digits"
    task, source = ("digits", None) if digits else ("mnist", options.data)
    return Problem(task, options.samples, source, test_samples=options.test_samples, weights=weights)


def texts(options: argparse.Namespace) -> Problem:
    """SST-2 with MiniLM, LoRA on its queries and a linear head."""
    return Problem("sst2", options.samples, options.glue, options.backbone, options.test_samples)


def adamw(rates: tuple[float, ...] = RATES) -> dict[str, Rule]:
    """AdamW at constant learning rates, by name."""
    return {f"adamw lr={rate:g}": Rule("AdamW", {"lr": rate}) for rate in rates}


def keep(folder: Path, settings: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A result out of the folder if it is there, else computed and put there.

    Args:
        folder: Where results are kept, one JSON each.
        settings: All that the result depends on.
        compute: Works it out.
    """
    text = json.dumps(settings, sort_keys=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        return json.loads(path.read_text())["result"]
    result = compute()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"settings": settings, "result": result}))
    partial.replace(path)
    return result


def gather(lines: dict[str, tuple[Problem, Rule]], seeds: int, folder: Path, title: str) -> Results:
    """Run every line of a study with every seed, unless it has been, with a bar."""
    cells = [(name, seed) for seed in range(seeds) for name in lines]
    results: Results = {name: [] for name in lines}
    for name, seed in track(cells, description=title):
        problem, rule = lines[name]
        settings = learning.settings(problem, rule, seed)
        results[name].append(keep(folder, settings, lambda p=problem, r=rule, s=seed: learning.run(p, r, s)))
    return results


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and the values, one a seed."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "seeds": values}


def figures(results: Results, rules: dict[str, Rule]) -> dict[str, Any]:
    """Optimizer, online and test accuracy of every line, and what went wrong."""
    return {
        name: {
            "optimizer": rules[name].name,
            "arguments": rules[name].arguments,
            "online_accuracy": spread([run["online"] for run in runs]),
            "test_accuracy": spread([run["test"] for run in runs]),
            "failures": [run["failure"] for run in runs if run["failure"]],
        }
        for name, runs in results.items()
    }


def tuned(results: Results, start: str = "adamw") -> str:
    """The line with the best mean online accuracy among those whose name starts so."""
    return max(
        (name for name in results if name.startswith(start)),
        key=lambda name: statistics.fmean(run["online"] for run in results[name]),
    )


def plus_minus(figure: dict[str, Any], digits: int = 1) -> str:
    """Mean and standard deviation, to be read."""
    return f"{figure['mean']:.{digits}f} ± {figure['std'] or 0:.{digits}f}"


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def show_figures(title: str, found: dict[str, Any]) -> None:
    """Print online and test accuracy of every line."""
    rows = [
        [name, plus_minus(line["online_accuracy"]), plus_minus(line["test_accuracy"]), str(len(line["failures"]))]
        for name, line in found.items()
    ]
    show(title, ["", "online accuracy", "test accuracy", "failed runs"], rows)


def draw_curves(axis: Any, results: Results, baseline: str, title: str) -> None:
    """Mean curves of average online accuracy over the seeds with a band of one standard deviation; baseline dashed."""
    for name, runs in results.items():
        curves = np.array([run["curve"] for run in runs])
        mean, deviation = curves.mean(0), curves.std(0)
        (line,) = axis.plot(runs[0]["steps"], mean, "k--" if name == baseline else "-", label=name)
        axis.fill_between(runs[0]["steps"], mean - deviation, mean + deviation, color=line.get_color(), alpha=0.12)
    axis.set(xlabel="samples", ylabel="average online accuracy (%)", title=title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def save(options: argparse.Namespace, study: str, content: dict[str, Any], figure: Any) -> None:
    """Write the JSON with the environment, and the plot beside it."""
    if options.output:
        environment = {
            "date": date.today().isoformat(),
            "device": device_name(torch.device("cpu")),
            "machine": platform.machine(),
            "threads": options.threads,
            "versions": versions(),
            "commit": commit(),
        }
        protocol = {"study": study, "samples": options.samples, "seeds": options.seeds}
        if "test_samples" in options:
            protocol["test_samples"] = options.test_samples or "all"
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(
            json.dumps({**protocol, **content, "environment": environment}, indent=2) + "\n"
        )
        figure.savefig(options.output.with_suffix(".png"), dpi=130)
    plt.close(figure)
