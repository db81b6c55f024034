r"""Sensitivity of R-Kalman to sigma0 and to beta (GRNG, figures 7 and 8), on SST-2 with MiniLM.

AdamW's learning rate is the best of 3e-4, 1e-3 and 3e-3 on the same streams, see docs/results/sst2_minilm.json.

    python -m benchmarks.papers.grng_figures --glue DATA/nyu-mll/glue --backbone MODELS/minilm-l6-v2 \
        --output docs/results/grng_figures_7_8
"""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt

from benchmarks.papers import common
from benchmarks.papers.common import Results
from benchmarks.papers.learning import Rule

SIGMA0 = (0.01, 0.03, 0.1, 0.3, 1.0)
BETA = (0.5, 0.8, 0.9, 0.94, 0.96, 0.99, 0.999)
DEFAULT = {"sigma0": 0.1, "beta": 0.96}


def rules() -> dict[str, Rule]:
    """R-Kalman with each sigma0 and with each beta, the other as in the paper, and AdamW."""
    sigmas = {f"sigma0={sigma0:g}": Rule("RKalman", {"p0": sigma0, "beta": DEFAULT["beta"]}) for sigma0 in SIGMA0}
    betas = {f"beta={beta:g}": Rule("RKalman", {"p0": DEFAULT["sigma0"], "beta": beta}) for beta in BETA}
    return {**sigmas, **betas, **common.adamw((1e-3,))}


def plot(results: Results, baseline: str) -> Any:
    """Both sensitivities: curves, and final accuracy against the value."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for (left, right), name, values in zip(axes, DEFAULT, (SIGMA0, BETA), strict=True):
        chosen = {line: runs for line, runs in results.items() if line.startswith(name) or line == baseline}
        common.draw_curves(left, chosen, baseline, f"R-Kalman, {name}")
        found = common.figures(chosen, rules())
        for key, style in (("online_accuracy", "o-"), ("test_accuracy", "s:")):
            lines = [found[f"{name}={value:g}"][key] for value in values]
            x = values if name == "sigma0" else [1 - value for value in values]
            right.errorbar(
                x, [f["mean"] for f in lines], [f["std"] or 0 for f in lines], fmt=style, label=key.replace("_", " ")
            )
            right.axhline(found[baseline][key]["mean"], color="k", linestyle=style[-1], linewidth=0.8)
        right.set(xscale="log", xlabel=name if name == "sigma0" else "1 - beta", ylabel="%", title=f"black: {baseline}")
        right.grid(alpha=0.3)
        right.legend(fontsize="small")
    return figure


def main(args: list[str] | None = None) -> None:
    made = common.parser(__doc__, samples=1000)
    common.add_texts(made)
    options = common.start(made, args)
    problem = common.texts(options)
    lines = {name: (problem, rule) for name, rule in rules().items()}
    results = common.gather(lines, options.seeds, options.runs, "GRNG figures 7 and 8")
    found = common.figures(results, rules())
    common.show_figures(f"R-Kalman, SST-2 + MiniLM, {options.samples} samples, {options.seeds} seeds", found)
    content = {"task": problem.task, "defaults": DEFAULT, "results": found}
    common.save(options, "GRNG figures 7 and 8", content, plot(results, common.tuned(results)))


if __name__ == "__main__":
    common.report_errors(main)
