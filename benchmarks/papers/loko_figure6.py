"""Initial variance against initial weights (LoKO, figure 6 and table 4): LeNet-5 on MNIST, LoKO as written.

Figure: average online accuracy of the stream for every p0, constant and uniform, and every way for weights to start.
Table: the range of p0 in which the filter learns, by bisection in log p0 for every seed. It learns where it predicts
at least THRESHOLD of the first half of the stream; below the range it is too slow for that, above it diverges.
AdamW's learning rate is the best of a grid for each way for weights to start, on these very seeds.

    python -m benchmarks.papers.loko_figure6 --data DATA/ylecun/mnist --output docs/results/loko_figure6_table4
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import replace
from typing import Any

from matplotlib import pyplot as plt
from rich.progress import track

from benchmarks.papers import bounds, common, learning
from benchmarks.papers.common import Results
from benchmarks.papers.learning import POINTS, Problem, Rule
from benchmarks.papers.weights import WEIGHTS

P0 = (1e-3, 1e-2, 1e-1, 1.0, 1e1)
PRIORS = ("constant", "uniform")
THRESHOLD = 0.25
"""Part of the first half of the stream that must be predicted; one of ten classes is right by chance."""

RATIO = 1.35
"""How close to a bound the search goes."""

DECADES = 4
"""How many factors of ten beyond the best p0 a bound is looked for."""


def loko(p0: float, prior: str) -> Rule:
    """LoKO as written, but for its prior."""
    return Rule("LoKO", {"p0": p0, "p0_init": prior, "noise": "ema-2"})


def line(prior: str, weights: str, p0: float) -> str:
    """Name of a line of the study."""
    return f"{prior}, {weights}, p0={p0:g}"


class Search:
    """Looks for the range of p0 in which the filter learns.

    Args:
        problem: The stream and the model.
        prior: ``constant`` or ``uniform``.
        seed: The seed.
        known: Whether it learns, for some p0.
        options: Where results are kept.
    """

    def __init__(
        self, problem: Problem, prior: str, seed: int, known: dict[float, bool], options: argparse.Namespace
    ) -> None:
        self.problem, self.prior, self.seed = replace(problem, test_samples=1), prior, seed
        self.known = {round(math.log10(p0), 6): learns for p0, learns in known.items()}
        self.options = options

    def learns(self, p0: float) -> bool:
        """Whether the filter learns with this p0."""
        exponent = round(math.log10(p0), 6)
        if exponent not in self.known:
            rule = loko(10**exponent, self.prior)
            settings = {**learning.settings(self.problem, rule, self.seed), "threshold": THRESHOLD}
            self.known[exponent] = common.keep(self.options.runs, settings, lambda: self._try(rule))["learns"]
        return self.known[exponent]

    def _try(self, rule: Rule) -> dict[str, bool]:
        half = self.problem.samples // 2
        backbone, stream, _ = learning.prepare(self.problem, self.seed)
        correct = learning.learn(backbone, rule.build(backbone), stream)
        return {"learns": bounds.reaches(correct, half, math.ceil(THRESHOLD * half))}

    def bound(self, good: float, factor: float) -> float | None:
        """The last p0 that learns, in steps of ``factor`` and then by bisection; None if there is no end."""
        found = bounds.bracket(self.learns, good, factor, DECADES)
        return found and bounds.bisect(self.learns, *found, RATIO)


def halfway(run: dict[str, Any]) -> float:
    """Average online accuracy of the first half of the stream, in percent."""
    return run["curve"][POINTS // 2 - 1]


def search(results: Results, problems: dict[str, Problem], options: argparse.Namespace) -> dict[str, Any]:
    """Bounds of every prior and way for weights to start, a pair a seed; None where nothing learns or has no end."""
    found: dict[str, Any] = {}
    cells = [(prior, weights, seed) for prior in PRIORS for weights in WEIGHTS for seed in range(options.seeds)]
    for prior, weights, seed in track(cells, description="bounds"):
        scores = {p0: halfway(results[line(prior, weights, p0)][seed]) for p0 in P0}
        known = {p0: score >= 100 * THRESHOLD for p0, score in scores.items()}
        best = max(scores, key=scores.__getitem__)
        looking = Search(problems[weights], prior, seed, known, options)
        pair = [looking.bound(best, 0.1), looking.bound(best, 10.0)] if known[best] else [None, None]
        found.setdefault(prior, {}).setdefault(weights, []).append(pair)
    return found


def summarise(pairs: list[list[float | None]]) -> dict[str, Any]:
    """Geometric means of the bounds, and the bounds of every seed."""

    def mean(values: list[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return statistics.geometric_mean(numbers) if len(numbers) == len(values) else None

    lower, upper = ([pair[side] for pair in pairs] for side in (0, 1))
    return {"min": mean(lower), "max": mean(upper), "min_seeds": lower, "max_seeds": upper}


def plot(found: dict[str, Any], table: dict[str, Any], baselines: dict[str, str], title: str) -> Any:
    """Online accuracy against p0, dashed the tuned AdamW, shaded where the filter learns with every start."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for axis, prior in zip(axes, PRIORS, strict=True):
        for index, weights in enumerate(WEIGHTS):
            lines = [found[line(prior, weights, p0)]["online_accuracy"] for p0 in P0]
            means, deviations = [f["mean"] for f in lines], [f["std"] or 0 for f in lines]
            axis.errorbar(P0, means, deviations, fmt="o-", capsize=2, color=f"C{index}", label=weights)
            axis.axhline(found[baselines[weights]]["online_accuracy"]["mean"], color=f"C{index}", linestyle="--")
            for bound in (table[prior][weights][key] for key in ("min", "max")):
                if bound is not None:
                    axis.axvline(bound, color=f"C{index}", linestyle=":", linewidth=0.8)
        what = "p = p0" if prior == "constant" else "p ~ U(0, p0)"
        axis.set(xscale="log", xlabel="p0", title=f"{what}; dashed: tuned AdamW; dotted: bounds")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="average online accuracy (%)")
    axes[0].legend(fontsize="small")
    figure.suptitle(title)
    return figure


def main(args: list[str] | None = None) -> None:
    made = common.parser(__doc__, samples=1000)
    made.set_defaults(test_samples=1000)
    common.add_images(made)
    options = common.start(made, args)
    problems = {weights: common.images(options, weights) for weights in WEIGHTS}
    lines = {
        line(prior, weights, p0): (problem, loko(p0, prior))
        for prior in PRIORS
        for weights, problem in problems.items()
        for p0 in P0
    }
    rates = {
        f"{name}, {weights}": (problem, rule)
        for weights, problem in problems.items()
        for name, rule in common.adamw().items()
    }
    results = common.gather({**lines, **rates}, options.seeds, options.runs, "LoKO figure 6")
    found = common.figures(results, {name: rule for name, (_, rule) in {**lines, **rates}.items()})
    table = {
        prior: {weights: summarise(pairs) for weights, pairs in starts.items()}
        for prior, starts in search(results, problems, options).items()
    }
    baselines = {
        weights: common.tuned({name: runs for name, runs in results.items() if name.endswith(f", {weights}")})
        for weights in WEIGHTS
    }
    task = problems[next(iter(WEIGHTS))].task
    title = f"{task} + LeNet-5, {options.samples} samples, {options.seeds} seeds"
    common.show_figures(title, found)
    rows = [
        [prior, weights, *("none" if pair[key] is None else f"{pair[key]:.2g}" for key in ("min", "max"))]
        for prior, starts in table.items()
        for weights, pair in starts.items()
    ]
    common.show(f"bounds of p0, geometric mean; {title}", ["prior", "weights", "min", "max"], rows)
    content = {
        "task": task,
        "criterion": {"threshold": THRESHOLD, "samples": options.samples // 2, "ratio": RATIO},
        "results": found,
        "tuned": baselines,
        "bounds": table,
    }
    common.save(options, "LoKO figure 6 and table 4", content, plot(found, table, baselines, title))


if __name__ == "__main__":
    common.report_errors(main)
