r"""What the skip frequency, the damping and the penalty do to RING and RENG (GRNG, tables 6 and 7, figures 5 and 6).

MiniLM with LoRA of rank 8 on queries and values; texts are cut at 48 tokens. As in the paper, table 6 is of STS-B after
20 iterations; table 7 and the figures are of SST-2, for there is no MNLI here, after 80. RING and RENG have their
defaults but for what is varied. AdamW's learning rate is the best of five at the same iteration. The time is that of
the steps alone, in processor seconds, which other work on the machine changes little.

    python -m benchmarks.papers.grng_ablations table6 --glue DATA/nyu-mll/glue --backbone MODELS/minilm-l6-v2 \
        --output docs/results/grng_table6
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from filtune.lightning_modules.backbones.base import Backbone
from filtune.optimizers import Observation
from matplotlib import pyplot as plt
from rich.progress import track

from benchmarks.papers import common, learning
from benchmarks.papers.grng_figure1 import BACKBONE, by_length, pearson
from benchmarks.papers.learning import Pairs, Problem, Rule

BATCH = 16
POINTS = 2
"""Evaluations of a run."""

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""AdamW's."""

RHO = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
PENALTY_COEFFICIENTS = (0.0, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Study:
    """What is varied, and where.

    Attributes:
        title: Of the table.
        task: ``stsb`` or ``sst2``.
        iterations: Steps of a run.
        lines: Optimizers by name, AdamW's aside.
    """

    title: str
    task: str
    iterations: int
    lines: dict[str, Rule]


def skips(values: tuple[int, ...]) -> dict[str, Rule]:
    """RING and RENG at these skip frequencies."""
    return {f"{name} skip={skip}": Rule(name.upper(), {"skip": skip}) for name in ("ring", "reng") for skip in values}


DAMPINGS = {f"{name} rho={rho:g}": Rule(name.upper(), {"rho": rho}) for name in ("ring", "reng") for rho in RHO}
PENALTIES = {f"reng c={c:g}": Rule("RENG", {"grad_penalty": c}) for c in PENALTY_COEFFICIENTS}
STUDIES = {
    "table6": Study("Table 6: STS-B", "stsb", 20, skips((2, 4, 6, 8, 10))),
    "table7": Study("Table 7: SST-2", "sst2", 80, skips((4, 8, 16, 32))),
    "figures": Study("Figures 5 and 6: SST-2", "sst2", 80, {**DAMPINGS, **PENALTIES}),
}


@torch.no_grad()
def score(problem: Problem, backbone: Backbone, batches: Pairs) -> dict[str, float]:
    """Accuracy or Pearson correlation, in percent, and the log loss."""
    good = 100 * pearson(backbone, batches) if problem.task == "stsb" else learning.accuracy(backbone, batches)
    losses = [float(problem.likelihood(backbone(inputs)).nll(label)) * len(label) for inputs, label in batches]
    return {"score": good, "loss": sum(losses) / sum(len(label) for _, label in batches)}


def follow(problem: Problem, rule: Rule, seed: int) -> dict[str, Any]:
    """One run: score and loss at even distances, and the processor seconds of the steps."""
    backbone, stream, _ = learning.prepare(problem, seed)
    arguments = (problem.task, problem.source, problem.samples, problem.test_samples, seed, problem.batch_size)
    held_out = by_length(backbone, learning.load(*arguments)[2])
    optimizer, seconds = rule.build(backbone), 0.0

    def timed(steps: Iterator[Observation]) -> Iterator[Observation]:
        nonlocal seconds
        while True:
            start = time.process_time()
            observation = next(steps, None)
            seconds += time.process_time() - start
            if observation is None:
                return
            yield observation

    steps = timed(learning.observations(backbone, optimizer, stream, problem.likelihood, rule.warmup))
    points = learning.trace(steps, lambda: score(problem, backbone, held_out), max(1, len(stream) // POINTS))
    names = ("step", "score", "loss")
    curves = {name: [point[name] if math.isfinite(point[name]) else None for point in points] for name in names}
    return {**curves, "seconds": seconds, "failure": optimizer.check_divergence()}


def last(values: list[float | None]) -> dict[str, Any]:
    """Mean, standard deviation and values over the seeds; a run that is not finite leaves no mean."""
    known = [value for value in values if value is not None]
    return common.spread(known) if len(known) == len(values) else {"mean": None, "std": None, "seeds": values}


def figures(lines: dict[str, Rule], runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of every line: its arguments, score, loss and seconds at the end, and all curves."""
    return {
        name: {
            "optimizer": rule.name,
            "arguments": rule.arguments,
            **{key: last([run[key][-1] for run in runs[name]]) for key in ("score", "loss")},
            "seconds": common.spread([run["seconds"] for run in runs[name]]),
            "failures": [run["failure"] for run in runs[name] if run["failure"]],
            "runs": runs[name],
        }
        for name, rule in lines.items()
    }


def plot(found: dict[str, Any], best: str, title: str) -> Any:
    """Score, loss and time against what is varied, a line for each optimizer; AdamW's best as a level."""
    varied: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for name, line in found.items():
        if not name.startswith("adamw"):
            label, _, value = name.rpartition("=")
            varied.setdefault(label, []).append((float(value), line))
    arguments = list(dict.fromkeys(label.split()[1] for label in varied))
    measures = {"score": title.rpartition(": ")[2] + ", %", "loss": "log loss", "seconds": "processor seconds"}
    size = (4.5 * len(measures), 3.6 * len(arguments))
    figure, axes = plt.subplots(len(arguments), len(measures), figsize=size, layout="constrained", squeeze=False)
    for row, argument in zip(axes, arguments, strict=True):
        for axis, (key, name) in zip(row, measures.items(), strict=True):
            for label, points in varied.items():
                if label.split()[1] == argument:
                    points = [(x, line) for x, line in points if line[key]["mean"] is not None]
                    means, stds = ([line[key][of] or 0 for _, line in points] for of in ("mean", "std"))
                    axis.errorbar([x for x, _ in points], means, stds, fmt="o-", capsize=3, label=label.split()[0])
            axis.axhline(found[best][key]["mean"], color="k", linestyle="--", label=best)
            axis.set(xlabel=argument, ylabel=name)
            if argument == "c":  # zero is among its values
                axis.set_xscale("symlog", linthresh=0.01)
                axis.set_xlim(left=-0.005)
            else:
                axis.set_xscale("log")
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(title)
    return figure


def main(args: list[str] | None = None) -> None:
    args = sys.argv[1:] if args is None else args
    named = next((STUDIES[word] for word in args if word in STUDIES), STUDIES["table7"])
    made = common.parser(__doc__, samples=BATCH * named.iterations, tests=300)
    made.add_argument("study", choices=STUDIES)
    common.add_texts(made)
    options = common.start(made, args)
    study = STUDIES[options.study]
    lines = {**study.lines, **common.adamw(RATES)}
    cell = Problem(
        study.task,
        options.samples,
        options.glue,
        options.backbone,
        options.test_samples,
        batch_size=BATCH,
        backbone_args=BACKBONE,
    )
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in lines}
    for seed, name in track(list(product(range(options.seeds), lines)), description=study.title):
        settings = {**learning.settings(cell, lines[name], seed), "study": "GRNG ablations", "points": POINTS}
        runs[name].append(common.keep(options.runs, settings, partial(follow, cell, lines[name], seed)))
    found = figures(lines, runs)
    best = max((name for name in found if name.startswith("adamw")), key=lambda name: found[name]["score"]["mean"] or 0)
    shown = ("score", "loss", "seconds")
    rows = [[name, *(cells(line[key], 3 if key == "loss" else 1) for key in shown)] for name, line in found.items()]
    title = f"{study.title}, {math.ceil(options.samples / BATCH)} iterations of {BATCH}, {options.seeds} seeds"
    common.show(title, ["at the end", *shown], rows)
    content = {"task": study.task, "batch_size": BATCH, "backbone": BACKBONE, "best_adamw": best, "results": found}
    common.save(options, study.title, content, plot(found, best, study.title))


def cells(figure: dict[str, Any], digits: int) -> str:
    """Mean and standard deviation, or that there is none."""
    return "not finite" if figure["mean"] is None else common.plus_minus(figure, digits)


if __name__ == "__main__":
    common.report_errors(main)
