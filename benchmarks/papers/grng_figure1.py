r"""Average gradient norm and Pearson correlation of every optimizer (GRNG, figure 1), on STS-B with MiniLM.

LoRA of rank 8 on queries and values. The gradient is that of the mean loss of fixed training samples; its average is
over the evaluations so far, as the paper's figure has it over iterations. First-order and natural-gradient methods take
batches of 16, the filters of 4, of the same samples in the same order: that is what is drawn on the abscissa. Texts
are cut at 48 tokens. R-Kalman has the paper's settings for STS-B, SAM has AdamW at 1e-3 for its base,
and all others their defaults. The paper warms AdamW up for 100 of about 1,400 steps, which is the share taken here.

    python -m benchmarks.papers.grng_figure1 --glue DATA/nyu-mll/glue --backbone MODELS/minilm-l6-v2 \
        --output docs/results/grng_figure1
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from filtune.lightning_modules.backbones.base import Backbone
from matplotlib import pyplot as plt
from rich.progress import track
from torch import Tensor

from benchmarks.papers import common, learning
from benchmarks.papers.learning import Pairs, Problem, Rule

BATCH, FILTER_BATCH = 16, 4
WARMUP = 0.07
EVALUATIONS = 6
PROBE = 64
"""Training samples whose gradient is followed: the first of the stream."""

CHUNK = 32
"""Samples of an evaluation's batch; it makes no difference but to the time."""

BACKBONE = {"targets": ["query", "value"], "max_length": 48}
FILTERS = ("LoKO", "RKalman")
MEASURES = {"gradient_norm": "gradient norm", "average_gradient_norm": "average gradient norm", "pearson": "Pearson"}

Runs = dict[str, list[dict[str, Any]]]


def rules(samples: int) -> dict[str, Rule]:
    """Every line of the figure."""
    return {
        **common.adamw((*common.RATES, 1e-2)),
        "adamw (paper)": Rule("AdamW", {"lr": 1e-4}, warmup=round(WARMUP * samples / BATCH)),
        "sam": Rule("SAM", {"base": "adamw", "lr": 1e-3}),
        "sophia": Rule("Sophia", {}),
        "sophia lr=0.001": Rule("Sophia", {"lr": 1e-3}),
        "kalman (LoKO)": Rule("LoKO", {}),
        "r-kalman": Rule("RKalman", {"p0": 0.05, "beta": 0.98}),
        "ngd": Rule("NGD", {}),
        "ring": Rule("RING", {}),
        "reng": Rule("RENG", {}),
    }


def problem(options: argparse.Namespace, rule: Rule) -> Problem:
    """STS-B in the batches that a rule takes."""
    size = FILTER_BATCH if rule.name in FILTERS else BATCH
    test = options.test_samples
    return Problem(
        "stsb", options.samples, options.glue, options.backbone, test, batch_size=size, backbone_args=BACKBONE
    )


def by_length(backbone: Backbone, batches: list[dict[str, Any]], most: int | None = None) -> Pairs:
    """The first samples of raw batches, of like length together, so that little of them is padding."""
    texts = [text for batch in batches for text in batch["text"]][:most]
    labels = torch.cat([batch["label"] for batch in batches])[:most]
    order = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])))
    chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
    return learning.pairs(backbone, [{"text": [texts[i] for i in chunk], "label": labels[chunk]} for chunk in chunks])


@torch.no_grad()
def pearson(backbone: Backbone, batches: Pairs) -> float:
    """Correlation of predictions and targets; 0 where it is not defined, as that of constant predictions."""
    predicted = torch.cat([backbone(inputs)[:, 0] for inputs, _ in batches])
    targets = torch.cat([label for _, label in batches]).to(predicted.dtype)
    found = float(correlation(predicted, targets))
    return found if math.isfinite(found) else 0.0


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's, (N,) and (N,) -> ()."""
    return torch.corrcoef(torch.stack([x, y]))[0, 1]


def follow(problem: Problem, rule: Rule, seed: int) -> dict[str, Any]:
    """One run: gradient norm and correlation at even distances, and what went wrong, if anything."""
    backbone, stream, _ = learning.prepare(problem, seed)
    _, train, validation = learning.load(
        problem.task, problem.source, problem.samples, problem.test_samples, seed, problem.batch_size
    )
    probe, held_out = by_length(backbone, train, PROBE), by_length(backbone, validation)

    def evaluate() -> dict[str, float]:
        norm = learning.gradient_norm(backbone, probe, problem.likelihood)
        return {"gradient_norm": norm, "pearson": pearson(backbone, held_out)}

    optimizer = rule.build(backbone)
    steps = learning.observations(backbone, optimizer, stream, problem.likelihood, rule.warmup)
    points = learning.trace(steps, evaluate, max(1, len(stream) // EVALUATIONS))
    curves = {name: [point[name] for point in points] for name in ("gradient_norm", "pearson")}
    curves["average_gradient_norm"] = (np.cumsum(curves["gradient_norm"]) / np.arange(1, len(points) + 1)).tolist()
    finite = {name: [value if math.isfinite(value) else None for value in curve] for name, curve in curves.items()}
    samples = [min(point["step"] * problem.batch_size, problem.samples) for point in points]
    return {"samples": samples, **finite, "failure": optimizer.check_divergence()}


def summary(values: list[float | None]) -> dict[str, Any]:
    """Mean, standard deviation and values; the values alone where one of them is not finite."""
    known = [value for value in values if value is not None]
    return common.spread(known) if len(known) == len(values) else {"mean": None, "std": None, "seeds": values}


def plot(runs: Runs, best: str) -> Any:
    """Gradient norm, its average and the correlation over the samples; AdamW with its best rate and the paper's."""
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(16, 5), layout="constrained")
    shown = [name for name in runs if not name.startswith("adamw lr") or name == best]
    for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        for index, name in enumerate(shown):
            curves = np.array([run[measure] for run in runs[name]], dtype=float)
            mean, deviation, samples = curves.mean(0), curves.std(0), runs[name][0]["samples"]
            (line,) = axis.plot(samples, mean, "k--" if name == best else ("-", "-.")[index // 10], label=name)
            axis.fill_between(samples, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.1)
        axis.set(xlabel="samples", title=title, yscale="linear" if measure == "pearson" else "log")
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize="small")
    return figure


def main(args: list[str] | None = None) -> None:
    made = common.parser(__doc__, samples=640, tests=192)
    common.add_texts(made)
    options = common.start(made, args)
    lines = rules(options.samples)
    runs: Runs = {name: [] for name in lines}
    protocol = {"study": "GRNG figure 1", "evaluations": EVALUATIONS, "probe": PROBE}
    for seed, name in track(list(product(range(options.seeds), lines)), description="GRNG figure 1"):
        rule = lines[name]
        cell = problem(options, rule)
        settings = {**learning.settings(cell, rule, seed), **protocol}
        runs[name].append(common.keep(options.runs, settings, partial(follow, cell, rule, seed)))
    found: dict[str, Any] = {}
    for name, rule in lines.items():
        last = {measure: summary([run[measure][-1] for run in runs[name]]) for measure in MEASURES}
        about = {"optimizer": rule.name, "arguments": rule.arguments, "batch_size": problem(options, rule).batch_size}
        failures = [run["failure"] for run in runs[name] if run["failure"]]
        found[name] = {**about, **last, "failures": failures, "runs": runs[name]}
    best = max((name for name in found if name.startswith("adamw")), key=lambda name: found[name]["pearson"]["mean"])
    rows = [
        [name, *(common.plus_minus(line[m], 3) if line[m]["mean"] is not None else "not finite" for m in MEASURES)]
        for name, line in found.items()
    ]
    title = f"STS-B + MiniLM, {options.samples} samples, {options.seeds} seeds"
    common.show(title, ["at the end", *MEASURES.values()], rows)
    content = {"task": "stsb", "backbone": BACKBONE, **protocol, "best_adamw": best, "results": found}
    common.save(options, "GRNG figure 1", content, plot(runs, best))


if __name__ == "__main__":
    common.report_errors(main)
