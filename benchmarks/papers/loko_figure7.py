r"""Sensitivity of LoKO to p0 (LoKO, figure 7): MNIST with LeNet-5, and SST-2 with MiniLM.

The paper shows CIFAR-100 with ViT-B/16, which takes a GPU. AdamW's learning rate is the best of 3e-4, 1e-3 and 3e-3
on the same streams; on SST-2 that is 1e-3, see docs/results/sst2_minilm.json.

    python -m benchmarks.papers.loko_figure7 --data DATA/ylecun/mnist --samples 2000 \
        --output docs/results/loko_figure7_mnist
    python -m benchmarks.papers.loko_figure7 --task sst2 --glue DATA/nyu-mll/glue --backbone MODELS/minilm-l6-v2 \
        --samples 1000 --output docs/results/loko_figure7_sst2
"""

from __future__ import annotations

from matplotlib import pyplot as plt

from benchmarks.papers import common
from benchmarks.papers.learning import Rule

P0 = (0.02, 0.2, 0.6, 2.0)


def main(args: list[str] | None = None) -> None:
    made = common.parser(__doc__, samples=1000)
    made.add_argument("--task", choices=("images", "sst2"), default="images")
    common.add_images(made)
    common.add_texts(made)
    options = common.start(made, args)
    text = options.task == "sst2"
    problem = common.texts(options) if text else common.images(options)
    rules = {f"p0 ~ U(0, {p0:g})": Rule("LoKO", {"p0": p0, "noise": "ema-2"}) for p0 in P0}
    rates = common.adamw((1e-3,) if text else common.RATES)
    both = {**rules, **rates}
    lines = {name: (problem, rule) for name, rule in both.items()}
    results = common.gather(lines, options.seeds, options.runs, "LoKO figure 7")
    found = common.figures(results, both)
    title = f"LoKO, {problem.task}, {options.samples} samples, {options.seeds} seeds"
    common.show_figures(title, found)
    best = common.tuned(results)
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    common.draw_curves(axis, {name: results[name] for name in (*rules, best)}, best, title)
    common.save(options, "LoKO figure 7", {"task": problem.task, "results": found}, figure)


if __name__ == "__main__":
    common.report_errors(main)
