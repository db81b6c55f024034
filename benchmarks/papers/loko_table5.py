"""Estimators of the observation noise (LoKO, table 5): online and test accuracy of LeNet-5 on MNIST.

Each runs with the paper's prior, p0 ~ U(0, 0.2), and with a p0 of its own, so that a noise is not blamed for a prior
that does not suit it. That p0 is the best of a grid on the first half of the stream of one more seed, which is not
among the seeds reported. AdamW's learning rate is the best of a grid on the very seeds reported, which favours it.

    python -m benchmarks.papers.loko_table5 --data DATA/ylecun/mnist --output docs/results/loko_table5
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from matplotlib import pyplot as plt
from rich.progress import track

from benchmarks.papers import common, learning
from benchmarks.papers.common import Results
from benchmarks.papers.learning import Problem, Rule

PAPER = 0.2
GRID = (0.006, 0.02, 0.06, 0.2, 0.6, 2.0)
NOISES: dict[str, dict[str, Any]] = {
    "identity": {"noise": "identity"},
    "annealed": {"noise": "annealed"},
    "softmax": {"noise": "softmax"},
    "ema-1": {"noise": "ema-1"},
    "ema-2": {"noise": "ema-2"},
    "ema-minus (ours)": {"noise": "ema_innovation"},
    "scalar (ours)": {"noise": "scalar"},
    "ema-2, logits (ours)": {"noise": "ema-2", "observation": "logits"},
}


def search(problem: Problem, seed: int, options: argparse.Namespace) -> dict[str, dict[float, float]]:
    """Online accuracy of every noise with every p0, on half a stream."""
    half = replace(problem, samples=max(1, problem.samples // 2))
    found: dict[str, dict[float, float]] = {name: {} for name in NOISES}
    for name, p0 in track([(name, p0) for name in NOISES for p0 in GRID], description="choosing p0"):
        rule = Rule("LoKO", {"p0": p0, **NOISES[name]})
        settings = learning.settings(half, rule, seed)
        result = common.keep(options.runs, settings, lambda rule=rule: learning.run(half, rule, seed))
        found[name][p0] = result["online"]
    return found


def plot(paper: Results, own: Results, baseline: str, chosen: dict[str, float]) -> Any:
    """Curves with either prior."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharey=True)
    common.draw_curves(axes[0], paper, baseline, f"p0 ~ U(0, {PAPER:g}), the paper's")
    titled = {f"{name}, p0 {chosen[name]:g}" if name in chosen else name: runs for name, runs in own.items()}
    common.draw_curves(axes[1], titled, baseline, "each with its own p0")
    return figure


def main(args: list[str] | None = None) -> None:
    made = common.parser(__doc__, samples=2000)
    common.add_images(made)
    options = common.start(made, args)
    problem = common.images(options)
    tried = search(problem, options.seeds, options)
    chosen = {name: max(scores, key=scores.__getitem__) for name, scores in tried.items()}

    rates = common.adamw()
    paper = {**{name: Rule("LoKO", {"p0": PAPER, **noise}) for name, noise in NOISES.items()}, **rates}
    own = {**{name: Rule("LoKO", {"p0": chosen[name], **noise}) for name, noise in NOISES.items()}, **rates}
    with_paper, with_own = (
        common.gather({name: (problem, rule) for name, rule in rules.items()}, options.seeds, options.runs, title)
        for rules, title in ((paper, f"p0 {PAPER:g}"), (own, "own p0"))
    )
    best = common.tuned(with_paper)

    title = f"{problem.task} + LeNet-5, {options.samples} samples, {options.seeds} seeds"
    found, found_own = common.figures(with_paper, paper), common.figures(with_own, own)
    common.show_figures(f"{title}, p0 ~ U(0, {PAPER:g})", found)
    common.show_figures(f"{title}, own p0", found_own)
    content = {
        "task": problem.task,
        "p0": PAPER,
        "results": found,
        "own_p0": chosen,
        "own_p0_search": {name: {f"{p0:g}": score for p0, score in scores.items()} for name, scores in tried.items()},
        "own_p0_results": {name: line for name, line in found_own.items() if name in NOISES},
    }
    lines = [*NOISES, best]
    figure = plot({name: with_paper[name] for name in lines}, {name: with_own[name] for name in lines}, best, chosen)
    common.save(options, "LoKO table 5", content, figure)


if __name__ == "__main__":
    common.report_errors(main)
