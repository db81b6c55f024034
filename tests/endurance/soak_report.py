"""Requirements at the end of a soak, as a table and a plot."""

from __future__ import annotations

import math
import statistics
from itertools import combinations
from pathlib import Path
from typing import Any

CHANCE = 10.0
"""Accuracy of guessing among ten classes, in percent."""

LEAK = 100
"""Bytes per step that may stay: less than the smallest tensor object takes."""

SLACK = 8 * 2**20
"""Bytes by which the memory of a process varies in any case: what its allocator keeps for later."""

SLOWER = 1.25
"""Largest ratio of the last third's step time to the first third's, in processor time.

Of a third it is the median of its fastest window: other programs can only make a window slower, and a step that takes
longer as a run goes on does so in all of them."""

QUANTILE = 3.09
"""Standard normal quantile of 0.999: accuracy this far above chance is no chance."""

Check = dict[str, Any]


def check_soak(result: dict[str, Any]) -> dict[str, Check]:
    """Return what must hold: for each the figure, its limit and whether it does."""
    windows, steps = result["windows"], result["steps"]
    settled = [w for w in windows if w["step"] > steps / 10] or windows  # torch and the allocator start up before
    points = [(w["step"], w["memory_bytes"]) for w in settled]
    growth = theil_sen(points) * (settled[-1]["step"] - settled[0]["step"])
    first, last = thirds([w["median_cpu_seconds"] for w in settled])
    checks = {
        "memory_growth_bytes": below(growth, SLACK + LEAK * steps),
        "step_time_ratio": below(last / first, SLOWER),
        "finite": above(sum(math.isfinite(w["nll"]) for w in windows) / len(windows), 1.0, strict=False),
    }
    for name in ("variance_min", "eigenvalue_min", "precision_min", "inner_eigenvalue_min"):
        found = [w[name] for w in windows if name in w]
        if found:
            checks[name] = above(min(found), 0.0)
    return {**checks, **check_learning(result)}


def check_learning(result: dict[str, Any]) -> dict[str, Check]:
    """Return whether it learns before the labels change, and after: or else whether it says that it does not.

    The accuracy of the second half of the windows before, and after, is compared with that of guessing.
    """
    windows, change, n = result["windows"], result["change_step"], result["window"]
    before = [w["accuracy"] for w in windows if w["step"] <= change]
    after = [w["accuracy"] for w in windows if w["step"] > change]
    learned, recovered = (half[len(half) // 2 :] for half in (before, after))
    learns, recovers = (
        above(statistics.fmean(half), CHANCE + QUANTILE * 100 * math.sqrt(0.1 * 0.9 / (n * len(half))))
        for half in (learned, recovered)
    )
    warned = any(warning["last_step"] > change for warning in result["warnings"])
    recovers |= {"warned": warned, "passed": recovers["passed"] or warned}
    return {"accuracy_before_change": learns, "accuracy_after_change": recovers}


def below(value: float, limit: float) -> Check:
    """Return the check that a figure is at most its limit."""
    return {"value": value, "limit": limit, "passed": value <= limit}


def above(value: float, limit: float, strict: bool = True) -> Check:
    """Return the check that a figure is above its limit."""
    return {"value": value, "limit": limit, "passed": value > limit if strict else value >= limit}


def theil_sen(points: list[tuple[float, float]]) -> float:
    """Return the median slope of all pairs of points; outliers do not matter. 0 for a single point."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2)]
    return statistics.median(slopes) if slopes else 0.0


def thirds(values: list[float]) -> tuple[float, float]:
    """Return the least of the first and of the last third."""
    k = max(len(values) // 3, 1)
    return min(values[:k]), min(values[-k:])


def print_soak(result: dict[str, Any]) -> None:
    """Print the checks and what the optimizer reported."""
    print(f"{result['method']}: {result['steps']:,} steps in {result['seconds']:,.0f} s")
    for name, check in result["checks"].items():
        verdict = (
            "FAILED"
            if not check["passed"]
            else "reported"
            if check["value"] <= check["limit"] and check.get("warned")
            else "ok"
        )
        print(f"  {name:26} {check['value']:12.4g}   limit {check['limit']:10.4g}   {verdict}")
    for warning in result["warnings"]:
        print(f"  from step {warning['first_step']:,} to {warning['last_step']:,}: {warning['message']}")


def plot_soaks(results: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy, log loss, memory, step time and the smallest figures of P over the steps."""
    from filtune.reports.plots import FAINT, draw_legend, draw_mean, log_scale, looks, new_figure, save_png

    panels = {
        "online accuracy, %": ("accuracy", 1.0),
        "log loss, nats": ("nll", 1.0),
        "memory, MiB": ("memory_bytes", 2.0**-20),
        "processor time of a step, ms": ("median_cpu_seconds", 1e3),
        "smallest variance": ("variance_min", 1.0),
        "smallest eigenvalue of P, or of the damped factors": ("eigenvalue_min", 1.0),
    }
    styles = looks((result["method"], result["method"], "paper") for result in results)
    handles = {}
    with new_figure(3, 2, (11, 9)) as (figure, axes):
        for axis, (title, (name, scale)) in zip(axes.flat, panels.items(), strict=True):
            for result in results:
                drawn = [w for w in result["windows"] if w.get(name) is not None]
                look = styles[result["method"]]
                steps, values = [w["step"] for w in drawn], [scale * w[name] for w in drawn]
                handles[result["method"]] = draw_mean(axis, steps, values, look)
                for warning in result["warnings"]:
                    axis.axvline(warning["first_step"], color=look.colour, linestyle=":", linewidth=0.8)
            for change in {result["change_step"] for result in results}:
                axis.axvline(change, color=FAINT, linestyle="--", linewidth=0.8)
            if name in ("nll", "variance_min", "eigenvalue_min"):
                log_scale(axis, "y")
            axis.set_title(title)
        for axis in axes[-1]:
            axis.set_xlabel("step (dashed: the labels change; dotted: a warning begins)")
        draw_legend(figure, handles, styles)
        save_png(figure, path, 120)
