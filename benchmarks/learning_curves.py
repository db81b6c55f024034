r"""Online accuracy of several optimizers on the same streams, over several seeds.

Every optimizer sees the same samples in the same order for a seed, from the same initial model. Completed runs are
skipped, so that a study that was stopped continues where it was. The result is a JSON with every run's figures, their
mean and standard deviation, and the environment, and a plot of the mean curves.

    python -m benchmarks.learning_curves digits --output docs/results/digits_lenet5
    python -m benchmarks.learning_curves sst2 --seeds 3 --output docs/results/sst2_minilm \
        --data.source=DATA/nyu-mll/glue --model.backbone.name=MODELS/minilm-l6-v2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from filtune.experiments.run_folder import read_run
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class CurveStudy:
    """The runs of one figure.

    Attributes:
        parts: Configurations of task and backbone.
        samples: Length of the stream.
        optimizers: Command-line options of each optimizer, by its name in the table.
    """

    parts: tuple[str, ...]
    samples: int
    optimizers: dict[str, tuple[str, ...]]


def _grid(config: str, rates: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {f"{config.partition('_')[0]} lr={lr}": ("--config", config, f"--optimizer.lr={lr}") for lr in rates}


FILTERS = {
    "loko (paper)": ("--config", "loko"),
    "loko logits": ("--config", "loko_logits"),
}
BASELINES = {
    "adamw (paper)": ("--config", "adamw"),
    **_grid("adamw_1e-3", ("3e-4", "1e-3", "3e-3")),
    **_grid("adagrad", ("1e-3", "1e-2")),
}
BLOCKS = ("--optimizer.p0=0.1", "--model.param_groups={lora_B: {p0: 3.0}, lora_A: {p0: 0.3}}")
COVARIANCES = {
    "loko (paper)": ("--config", "loko"),
    "r-kalman (paper)": ("--config", "r_kalman"),
    "ekf neuron": ("--config", "ekf_neuron"),
    "lofi": ("--config", "lofi"),
    "loko, prior a block": ("--config", "loko", "--optimizer.p0_init=constant", *BLOCKS),
    "lofi, prior a block": ("--config", "lofi", *BLOCKS),
    "adamw lr=1e-3": ("--config", "adamw_1e-3"),
    "adagrad lr=1e-2": ("--config", "adagrad", "--optimizer.lr=1e-2"),
}
BATCHES = "--data.batch_size=16"
NATURAL = {
    "ngd": ("--config", "ngd", BATCHES),
    "ring": ("--config", "ring", BATCHES),
    "reng": ("--config", "reng", BATCHES),
    "sam, adamw": ("--config", "sam", "--optimizer.base=adamw", "--optimizer.lr=1e-3", BATCHES),
    "sophia lr=1e-3": ("--config", "sophia", "--optimizer.lr=1e-3", BATCHES),
    **{name: (*line, BATCHES) for name, line in _grid("adamw_1e-3", ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2")).items()},
}
PRECISIONS = {
    f"{name} {precision}": ("--config", config, f"--trainer.precision={precision}")
    for name, config in (("loko (paper)", "loko"), ("loko logits", "loko_logits"), ("adamw lr=1e-3", "adamw_1e-3"))
    for precision in ("32-true", "bf16-mixed")
}
STUDIES = {
    "digits": CurveStudy(("task/digits", "backbone/lenet5"), 1500, {**FILTERS, **BASELINES}),
    "mnist": CurveStudy(("task/mnist", "backbone/lenet5"), 2000, {**FILTERS, **BASELINES}),
    "sst2": CurveStudy(("task/sst2", "backbone/minilm"), 1000, {**FILTERS, **BASELINES}),
    "covariance": CurveStudy(("task/sst2", "backbone/minilm"), 1000, COVARIANCES),
    "natural-mnist": CurveStudy(("task/mnist", "backbone/lenet5"), 2000, NATURAL),
    "natural-sst2": CurveStudy(("task/sst2", "backbone/minilm"), 1280, NATURAL),
    "precision": CurveStudy(("task/sst2", "backbone/minilm"), 1000, PRECISIONS),
    "precision-mnist": CurveStudy(("task/mnist", "backbone/lenet5"), 2000, PRECISIONS),
}


def train(study: CurveStudy, optimizer: str, seed: int, root: Path, options: list[str]) -> Path:
    """Train one optimizer with one seed, unless that run is finished, and return its folder."""
    folder = root / f"{optimizer}-seed{seed}".replace(" ", "_")
    finished = sorted(path.parent for path in folder.rglob("summary.json"))
    if finished:
        return finished[-1]
    configs = [argument for part in ("trainer/cpu", *study.parts) for argument in ("--config", part)]
    configs.append("--model.backbone.head_init=random")  # as the results on record were made
    command = ["fit", *configs, *study.optimizers[optimizer], f"--data.max_samples={study.samples}", *options]
    command += [f"--seed_everything={seed}", f"--run.root={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-m", "filtune", *command], env=environment, check=True)
    return max(path.parent for path in folder.rglob("summary.json"))


def summarise_runs(folders: dict[str, list[Path]]) -> dict[str, Any]:
    """Return the figures of every optimizer: per seed, mean and standard deviation (over seeds, n - 1)."""
    results = {}
    for name, paths in folders.items():
        summaries = [read_run(path).summary for path in paths]
        figures = {
            "online_accuracy": [s["online_accuracy"] for s in summaries],
            "online_loss": [s["online_loss"] for s in summaries],
            **{f"val_{key}": [s["val"][key] for s in summaries] for key in summaries[0]["val"]},
        }
        results[name] = {
            key: {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "seeds": values,
            }
            for key, values in figures.items()
        }
    return results


def plot_curves(folders: dict[str, list[Path]], title: str, target: Path) -> None:
    """Plot the mean online accuracy over the seeds, with a band of one standard deviation."""
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, paths in folders.items():
        curves = [read_run(path).curve("online/accuracy") for path in paths]
        steps, values = np.array(curves[0][0]), np.array([curve[1] for curve in curves])
        (line,) = axis.plot(steps, values.mean(0), label=name, linestyle="-" if "loko" in name else "--")
        axis.fill_between(
            steps, values.mean(0) - values.std(0), values.mean(0) + values.std(0), color=line.get_color(), alpha=0.12
        )
    axis.set(xlabel="samples", ylabel="average online accuracy (%)", title=title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(target, dpi=130)
    plt.close(figure)


def print_means(results: dict[str, Any], title: str) -> None:
    """Print means and standard deviations."""
    table = Table(title=title)
    columns = list(next(iter(results.values())))
    for column in ("optimizer", *columns):
        table.add_column(column.replace("_", "\n", 1), justify="left" if column == "optimizer" else "right")
    for name, figures in results.items():
        cells = [(figures[c]["mean"], figures[c]["std"] or 0.0, 3 if "loss" in c else 1) for c in columns]
        table.add_row(name, *(f"{mean:.{digits}f} ± {std:.{digits}f}" for mean, std, digits in cells))
    Console().print(table)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to SEEDS - 1 (default: 3)")
    parser.add_argument("--optimizers", nargs="+", help="only these of the study")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where the runs are kept")
    parser.add_argument("--output", type=Path, help="path of the JSON and the PNG, without suffix")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options, rest = parser.parse_known_args(args)
    torch.set_num_threads(options.threads)
    study = STUDIES[options.study]
    folders = {
        name: [train(study, name, seed, options.runs / options.study, rest) for seed in range(options.seeds)]
        for name in options.optimizers or study.optimizers
    }
    results = summarise_runs(folders)
    title = (
        f"{' + '.join(part.partition('/')[2] for part in study.parts)}, {study.samples} samples, {options.seeds} seeds"
    )
    print_means(results, title)
    if options.output:
        summary = read_run(next(iter(folders.values()))[0]).summary
        environment = {key: summary[key] for key in ("device", "precision", "versions", "commit")}
        record = {"study": options.study, "samples": study.samples, "results": results, "environment": environment}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        plot_curves(folders, title, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
