r"""Theorem 4.3 of GRNG on a two-layer network, full batch: the error of every step against the bound of eq. 17.

Beside it the bound that the same proof gives where its terms are left to cancel. With e_k = yhat_k - y, the update of
appendix C and Hbar the mean Jacobian over the step,

    e_{k+1} = rho~ (G + rho~)^-1 e_k - (Hbar - H_k) H_k' (G + rho~)^-1 e_k, so
    |e_{k+1}| <= rho~ / (lambda_min + rho~) |e_k| + 2C/3 sqrt(lambda_min(G0)) |theta_{k+1} - theta_k|.

    python -m benchmarks.papers.grng_theorem --output docs/results/grng_theorem_4_3
"""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from filtune.optimizers import AdamW, Gaussian
from matplotlib import pyplot as plt
from rich.progress import track
from torch import Tensor

from benchmarks.papers import common, two_layer
from benchmarks.papers.two_layer import TwoLayer

WIDTHS = (64, 256, 1024, 4096, 16384)
SHOWN = 4096
"""The width whose errors are drawn, and on which AdamW learns."""

RHOS = (0.0, 1e-4, 1e-2, 1.0)
RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
STEPS = 40
DRAWS, CLIMBS = 20, 40
FLOOR = 1e-10
"""Errors below it are rounding, and left out."""

SIZES = ("drawn", "climbed", "certain", "trajectory")
"""What is known of C: of random points of the ball, of the worst ones found, an upper bound, and of the way taken."""

Step = dict[str, float]


def bounds(step: Step, C: float, start: float) -> dict[str, float]:
    """Bounds of the next error: eq. 17, the same without its terms' signs lost, and that with |Hbar - H_k| known.

    Args:
        step: What was measured.
        C: Of assumption 4.2.
        start: lambda_min(G0).
    """
    kept = step["damping"] / (step["least"] + step["damping"]) * step["error"]
    growth = step["rho"] * step["kappa"] * step["error"] ** 2
    return {
        "paper": (1 + C) * ((2 + C) / (1 + C) + growth) * step["error"],
        "tight": kept + 2 * C / 3 * math.sqrt(start) * step["move"],
        "known": kept + step["change"] * step["move"],
    }


def claims(step: Step, C: float, start: float, radius: float) -> dict[str, bool]:
    """What appendix C says of a step, and whether it is so; rounding is allowed for."""
    e, kappa = step["error"], step["rho"] * step["kappa"]
    sides = {
        "inside the ball": (step["distance"], radius),
        "|yhat_{k+1} - yhat_k| <= the same with the inverse truncated": (
            step["outputs_change"],
            step["outputs_change_truncated"],
        ),
        "|(2)| <= C|e|": (step["term_2"], C * e),
        "|(3)| <= (1 + rho kappa)|e|^2, as in the paper": (step["term_3"], (1 + kappa) * e**2),
        "|(3)| <= rho kappa |e|^3": (step["term_3"], kappa * e**3),
        "|(4)| <= C (1 + rho kappa)|e|^2, as in the paper": (step["term_4"], C * (1 + kappa) * e**2),
        "|(4)| <= C rho kappa |e|^3": (step["term_4"], C * kappa * e**3),
        **{f"{name} bound": (step["next"], bound) for name, bound in bounds(step, C, start).items()},
    }
    return {claim: left <= right * (1 + 1e-9) + 1e-13 for claim, (left, right) in sides.items()}


def follow(net: TwoLayer, rho: float, steps: int) -> list[Step]:
    """Take steps until only rounding is left; what was measured of each."""
    taken: list[Step] = []
    W = net.W0
    while len(taken) < steps and not (taken and taken[-1]["next"] < FLOOR):
        V = two_layer.update(net, W, rho)
        taken.append({"rho": rho, **two_layer.measure(net, W, V, rho)})
        W = V
    return taken


def examine(samples: int, width: int, seed: int) -> dict[str, Any]:
    """The errors, bounds and claims of every step with every rho, and what is known of C."""
    net = two_layer.digits(samples, width, seed)
    generator = torch.Generator().manual_seed(seed)
    start, radius = two_layer.least(net), two_layer.radius(net)
    taken = {f"{rho:g}": follow(net, rho, STEPS) for rho in RHOS}
    farthest = {rho: max(step["deviation"] for step in steps) for rho, steps in taken.items()}
    C = {rho: two_layer.stability(net, deviation) for rho, deviation in farthest.items()}
    steps = [(step, C[rho]) for rho, path in taken.items() for step in path]
    held = [claims(step, value, start, radius) for step, value in steps]
    return {
        "least": start,
        "C": {
            "drawn": two_layer.drawn(net, DRAWS, generator),
            "climbed": two_layer.climbed(net, CLIMBS, generator),
            "certain": two_layer.certain(net),
            "trajectory": max(C.values()),
        },
        "claims": {claim: [sum(h[claim] for h in held), len(held)] for claim in held[0]},
        "distance": max(step["distance"] / radius for step, _ in steps),
        "errors": {
            rho: {
                "measured": [path[0]["error"], *(step["next"] for step in path)],
                **{n: [bounds(step, C[rho], start)[n] for step in path] for n in ("paper", "tight", "known")},
            }
            for rho, path in taken.items()
        },
    }


def baseline(samples: int, rate: float, seed: int) -> list[float]:
    """AdamW's error before every step, and after the last, full batch."""
    net = two_layer.digits(samples, SHOWN, seed)
    W = net.W0.clone().requires_grad_()
    optimizer = AdamW([W], lr=rate, weight_decay=0.0)

    def outputs() -> Tensor:
        return net.outputs(W).unsqueeze(1)

    seen = [optimizer.step(lambda: Gaussian(outputs()).observe(net.y)).outputs for _ in range(STEPS)]
    return [float((out.detach()[:, 0] - net.y).norm()) for out in (*seen, outputs())]


def plot(found: dict[int, list[dict[str, Any]]], adamw: dict[str, list[list[float]]], best: str) -> Any:
    """Errors and bounds over the steps for each rho, a line a seed, C against the width, and AdamW's rates."""
    figure, axes = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    styles = {"paper": ("C3s--", "eq. 17"), "tight": ("C2^:", "terms left to cancel"), "measured": ("C0o-", "measured")}
    *left, sizes, rates = axes.flat
    for axis, rho in zip(left, RHOS, strict=True):
        for (name, (style, label)), (seed, run) in product(styles.items(), enumerate(found[SHOWN])):
            curve = run["errors"][f"{rho:g}"][name]
            first = 0 if name == "measured" else 1
            steps = range(first, len(curve) + first)
            axis.plot(steps, curve, style, markersize=3, linewidth=0.9, label=None if seed else label)
        axis.plot(np.mean(adamw[best], 0), "k-", linewidth=0.9, label=best)
        most = max(len(run["errors"][f"{rho:g}"]["measured"]) for run in found[SHOWN])
        axis.set(yscale="log", ylim=(FLOOR, None), xlim=(-0.5, max(8, most)), xlabel="k")
        axis.set_title(f"|yhat_k - y|, rho = {rho:g}, width {SHOWN}", fontsize="medium")
    for size in SIZES:
        values = np.array([[run["C"][size] for run in runs] for runs in found.values()])
        sizes.errorbar(list(found), values.mean(1), values.std(1), fmt="o-", label=size)
    sizes.axhline(0.5, color="k", linewidth=0.8, label="assumption 4.2: C < 1/2")
    sizes.set(xscale="log", yscale="log", xlabel="width", title="C")
    for name, curves in adamw.items():
        rates.errorbar(range(STEPS + 1), np.mean(curves, 0), np.std(curves, 0), label=name, linewidth=0.9)
    rates.set(yscale="log", xlabel="k", title=f"|yhat_k - y|, AdamW, width {SHOWN}")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    return figure


def main(args: list[str] | None = None) -> None:
    options = common.start(common.parser(__doc__, samples=24, tests=0), args)
    widths = sorted({*WIDTHS, SHOWN})
    found: dict[int, list[dict[str, Any]]] = {width: [] for width in widths}
    adamw: dict[str, list[list[float]]] = {f"adamw lr={rate:g}": [] for rate in RATES}
    shared = {"study": "theorem 4.3", "samples": options.samples, "steps": STEPS}
    for seed, width in track(list(product(range(options.seeds), widths)), description="GRNG theorem 4.3"):
        settings = {**shared, "width": width, "seed": seed, "rhos": RHOS, "draws": DRAWS, "climbs": CLIMBS}
        found[width].append(common.keep(options.runs, settings, partial(examine, options.samples, width, seed)))
    for seed, rate in product(range(options.seeds), RATES):
        settings = {**shared, "width": SHOWN, "seed": seed, "adamw": rate}
        run = common.keep(options.runs, settings, lambda r=rate, s=seed: {"error": baseline(options.samples, r, s)})
        adamw[f"adamw lr={rate:g}"].append(run["error"])
    last = {name: common.spread([curve[-1] for curve in curves]) for name, curves in adamw.items()}
    best = min(last, key=lambda name: last[name]["mean"])
    C = {w: {size: common.spread([run["C"][size] for run in runs]) for size in SIZES} for w, runs in found.items()}
    held = {
        width: {claim: np.sum([run["claims"][claim] for run in runs], 0).tolist() for claim in runs[0]["claims"]}
        for width, runs in found.items()
    }
    rows = [[str(w), *(common.plus_minus(C[w][size], 2) for size in SIZES)] for w in widths]
    common.show("C, of assumption 4.2", ["width", *SIZES], rows)
    rows = [[claim, *("{}/{}".format(*held[w][claim]) for w in widths)] for claim in held[SHOWN]]
    common.show("steps on which it holds", ["", *map(str, widths)], rows)
    common.show(f"AdamW, error after {STEPS} steps", ["", "error"], [[n, common.plus_minus(last[n], 3)] for n in last])
    content = {
        "task": "digits, the class as a value",
        "steps": STEPS,
        "C": C,
        "claims": held,
        "least_eigenvalue": {w: common.spread([run["least"] for run in runs]) for w, runs in found.items()},
        "distance_over_radius": {w: common.spread([run["distance"] for run in runs]) for w, runs in found.items()},
        "shown_width": SHOWN,
        "errors": [run["errors"] for run in found[SHOWN]],
        "results": {name: {"last_error": last[name], "errors": adamw[name]} for name in adamw},
    }
    common.save(options, "GRNG theorem 4.3", content, plot(found, adamw, best))


if __name__ == "__main__":
    common.report_errors(main)
