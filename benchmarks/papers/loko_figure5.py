"""Does a full covariance turn block-diagonal (LoKO, figure 5)? A small LeNet on MNIST at 14 x 14.

Two priors with the same variances: dense, whose correlations are those of random directions, and diagonal. What is
measured over the stream is described in ``structure.py``. The filter is LoKO's but for its covariance, in float64.

    python -m benchmarks.papers.loko_figure5 --data DATA/ylecun/mnist --output docs/results/loko_figure5
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from filtune.lightning_modules.backbones.image import ImageBackbone
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from rich.progress import track
from torch import Tensor, nn

from benchmarks.papers import common, learning, structure
from benchmarks.papers.learning import Problem, Rule

STARTS = ("dense prior", "diagonal prior")
P0 = 0.1
FILTER = Rule("EKF", {"covariance": "full", "p0": P0, "noise": "ema-2", "dtype": "float64"})
DIRECTIONS = 8
"""Random directions of the dense prior: its correlations are about 1 / (2 sqrt(DIRECTIONS)) in size."""

SHOWN = (0, 0.025, 0.125, 0.5, 1)
"""Parts of the stream after which the covariance is drawn."""

MEASURED = 40
"""Points of the measures."""

PATCH = 5
"""Side of the patches whose mean is a dot of a drawing."""

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""AdamW's learning rates: so small a network takes larger ones."""


class SmallLeNet(nn.Module):
    """LeNet-5's layers, narrow: 980 parameters, on 14 x 14 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 5, padding=2)
        self.conv2 = nn.Conv2d(3, 6, 3)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(24, 16)
        self.fc2 = nn.Linear(16, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 1, 14, 14) -> outputs (B, 10)."""
        x = self.pool(torch.relu(self.conv1(image)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.head(torch.relu(self.fc2(x)))


def prepare(problem: Problem, seed: int) -> tuple[ImageBackbone, learning.Pairs, learning.Pairs]:
    """The small network with the weights of a seed, the stream and the test batches."""
    _, stream, test = learning.load(problem.task, problem.source, problem.samples, problem.test_samples, seed)
    torch.manual_seed(seed)
    backbone = ImageBackbone(SmallLeNet(), ("head",), 14, 1, mean=(0.1307,), std=(0.3081,)).eval()
    return backbone, learning.pairs(backbone, stream), learning.pairs(backbone, test)


def dense_prior(n: int, p0: float) -> Tensor:
    """p0 (I + G G') / 2 with rows of G on the unit sphere: variances p0, eigenvalues of at least p0 / 2, (n, n)."""
    G = nn.functional.normalize(torch.randn(n, DIRECTIONS, dtype=torch.float64), dim=1)
    return p0 * (torch.eye(n, dtype=torch.float64) + G @ G.mT) / 2


def evolve(problem: Problem, start: str, seed: int) -> dict[str, Any]:
    """Learn the stream with the full covariance, measure it on the way, and of seed 0 keep it at times."""
    backbone, stream, test = prepare(problem, seed)
    optimizer = FILTER.build(backbone)
    state = optimizer.filter
    if start == STARTS[0]:
        state["P0"] = dense_prior(state["P0"].shape[-1], P0).unsqueeze(0)
    shapes = [param.shape for param in backbone.parameters()]
    partitions = {name: structure.labels(shapes, name) for name in structure.PARTITIONS}
    samples = len(stream)
    measured = {round(part * samples / MEASURED) for part in range(MEASURED + 1)}
    shown = {round(part * samples) for part in SHOWN} if seed == 0 else set()
    points, maps, hits = [], [], 0
    correct = learning.learn(backbone, optimizer, stream)
    for k in range(samples + 1):
        hits += next(correct) if k else 0
        P = state["P0"][0]
        if k in measured:
            points.append({"sample": k, **structure.measures(P, partitions)})
        if k in shown:
            matrices = {"covariance": P, "correlation": structure.correlation(P)}
            maps.append({"sample": k, **{name: coarse(M).tolist() for name, M in matrices.items()}})
    accuracy = learning.accuracy(backbone, test)
    return {
        "online": 100 * hits / samples,
        "test": accuracy,
        "failure": optimizer.check_divergence(),
        "points": points,
        "maps": maps,
    }


def coarse(M: Tensor) -> Tensor:
    """Means of the absolute values of square patches, to be drawn."""
    return nn.functional.avg_pool2d(M.abs().unsqueeze(0), PATCH).squeeze(0)


def baseline(problem: Problem, rule: Rule, seed: int) -> dict[str, Any]:
    """The same network and stream with another optimizer."""
    backbone, stream, test = prepare(problem, seed)
    return learning.follow(backbone, rule.build(backbone), stream, test)


def over_time(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of every measure at every point."""
    tables = {
        name: np.array([[point[name] for point in run["points"]] for run in runs]) for name in runs[0]["points"][0]
    }
    steps = tables.pop("sample")[0].tolist()
    spreads = {
        name: {"mean": table.mean(0).tolist(), "std": table.std(0, ddof=1).tolist() if len(runs) > 1 else None}
        for name, table in tables.items()
    }
    return {"samples": steps, **spreads}


def plot(results: common.Results, curves: dict[str, Any], evenly: dict[str, Any]) -> Any:
    """Heat maps of seed 0 for either prior, and the measures over time."""
    figure = plt.figure(figsize=(10, 11), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[4, 1.1])
    axes = top.subplots(2 * len(STARTS), len(SHOWN), squeeze=False)
    bounds = np.cumsum([param.numel() for param in SmallLeNet().parameters()])[:-1] / PATCH - 0.5
    scales = {"covariance": LogNorm(1e-4 * P0, P0), "correlation": LogNorm(1e-3, 1)}
    for row, (start, name) in enumerate(product(STARTS, scales)):
        for axis, drawn in zip(axes[row], results[start][0]["maps"], strict=True):
            image = axis.imshow(np.maximum(drawn[name], 1e-12), norm=scales[name], cmap="magma")
            axis.set_xticks(bounds, labels=[])
            axis.set_yticks(bounds, labels=[])
            axis.set_title(f"k = {drawn['sample']}", fontsize="small")
        axes[row, 0].set_ylabel(f"{start}\n|{name}|")
        top.colorbar(image, ax=axes[row, -1], shrink=0.8)
    panels: dict[str, dict[str, tuple[str, str]]] = {
        "root mean square correlation": {"rms_correlation": ("-", "")},
        "share of squared correlation": {
            "correlation_outside_diagonal": (":", ", off the diagonal"),
            "correlation_outside_tensor": ("-", ", outside tensors"),
        },
        "concentration in tensor blocks (1: none)": {"correlation_concentration_tensor": ("-", "")},
    }
    for axis, (title, measures) in zip(bottom.subplots(1, len(panels)), panels.items(), strict=True):
        for (measure, (style, what)), (index, start) in product(measures.items(), enumerate(STARTS)):
            curve = curves[start]
            axis.plot(curve["samples"], curve[measure]["mean"], style, color=f"C{index}", label=start + what)
        if len(measures) > 1:
            axis.axhline(evenly["tensor"]["outside"], color="k", linewidth=0.8, label="outside tensors, spread evenly")
        axis.set(xlabel="samples", ylim=(0, None))
        axis.set_title(title, fontsize="small")
        axis.legend(fontsize="x-small")
        axis.grid(alpha=0.3)
    return figure


def main(args: list[str] | None = None) -> None:
    made = common.parser(__doc__, samples=4000)
    common.add_images(made)
    options = common.start(made, args)
    problem = common.images(options)
    rates = common.adamw(RATES)
    results: common.Results = {line: [] for line in (*STARTS, *rates)}
    for seed, line in track(list(product(range(options.seeds), results)), description="LoKO figure 5"):
        settings = learning.settings(problem, rates.get(line, FILTER), seed)
        settings |= {"network": "SmallLeNet", "start": line}
        compute = (
            partial(baseline, problem, rates[line], seed) if line in rates else partial(evolve, problem, line, seed)
        )
        results[line].append(common.keep(options.runs, settings, compute))
    title = f"{problem.task} at 14 x 14 + small LeNet, {options.samples} samples, {options.seeds} seeds"
    found = common.figures(results, {**dict.fromkeys(STARTS, FILTER), **rates})
    common.show_figures(title, found)
    shapes = [param.shape for param in SmallLeNet().parameters()]
    evenly = {name: structure.even(structure.labels(shapes, name)) for name in structure.PARTITIONS}
    curves = {start: over_time(results[start]) for start in STARTS}
    rows = [
        [f"{start}, {name}", *(f"{curves[start][name]['mean'][point]:.3f}" for point in (0, MEASURED // 2, -1))]
        for start in STARTS
        for name in curves[start]
        if name != "samples"
    ]
    common.show(title, ["", "start", "half way", "end"], rows)
    content = {"task": problem.task, "parameters": sum(s.numel() for s in shapes), "results": found}
    content |= {"measures": curves, "evenly_spread": evenly}
    common.save(options, "LoKO figure 5", content, plot(results, curves, evenly))


if __name__ == "__main__":
    common.report_errors(main)
