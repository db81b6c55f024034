"""Numbers, metrics and scales as pages show them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from filtune.experiments.composition import metadata
from filtune.experiments.records import PACKED

from .statistics import MeanStd

MINUS, DASH, CROSS = "\u2212", "\u2013", "\u00d7"
"""Minus sign, the dash that stands where there is no value, and the sign after a ratio."""

RUNS = "runs/reproduce"
"""The default root of ``filtune reproduce``."""

TIMES = ("wall_seconds", "seconds_per_step", "mean_seconds_per_step")
"""Metrics that depend on the machine."""

_METRICS = {
    "online_accuracy": "average online accuracy (%)",
    "online_pearson": "online Pearson correlation (%)",
    "online_top5": "average online top-5 accuracy (%)",
    "online_loss": "average online loss",
    "online_nll": "prequential log loss (nats)",
    "online_brier": "prequential Brier score",
    "online_ece": "prequential calibration error (%)",
    "online_predictive_nll": "prequential log loss, posterior predictive (nats)",
    "online_predictive_brier": "prequential Brier score, posterior predictive",
    "online_predictive_ece": "prequential calibration error, posterior predictive (%)",
    "val_accuracy": "validation accuracy (%)",
    "val_matthews": "Matthews correlation on validation (%)",
    "val_pearson": "Pearson correlation on validation (%)",
    "val_spearman": "Spearman correlation on validation (%)",
    "val_f1": "F1 on validation (%)",
    "val_loss": "validation loss",
    "val_forgetting": "forgetting on validation (percentage points)",
    "steps_to_convergence": "steps to convergence",
    "seconds_per_step": "seconds per step (median)",
    "mean_seconds_per_step": "seconds per step (mean)",
    "wall_seconds": "total seconds",
}
_CURVES = {
    "online/loss": "loss, windowed mean",
    "online/l1": "L1 loss, windowed mean",
    "stats/grad_norm": "gradient norm",
}


def as_slug(name: str) -> str:
    """Return a name as part of a file's name and of an address on a page."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def is_of_segment(metric: str) -> bool:
    """Return whether a metric is the accuracy on one segment of a stream, too many for the columns of a table."""
    return re.fullmatch(r"(val_)?accuracy_\d+", metric) is not None


def metric_title(metric: str) -> str:
    """Return a metric's name with its unit."""
    return _METRICS.get(metric, metric.replace("_", " "))


def curve_title(tag: str) -> str:
    """Return the title of a logged scalar."""
    return _CURVES.get(tag) or metric_title(tag.replace("/", "_"))


def backbone_title(name: str) -> str:
    """Return a backbone's name as papers have it."""
    return metadata("backbone", name).get("title", name)


def format_metric(value: float | None, metric: str) -> str:
    """Return a value with the digits usual for its metric."""
    if value is None:
        return DASH
    if metric == "steps_to_convergence" or "parameters" in metric:
        return f"{value:,.0f}"
    if "seconds" in metric:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    if metric.startswith("measured_") and 0 < abs(value) < 1:  # of any size
        return f"{value:.3g}"
    fine = any(word in metric for word in ("loss", "nll", "brier"))
    return f"{value:.4f}" if fine else f"{value:.2f}"


def format_mean_std(sample: MeanStd | None, metric: str) -> str:
    """Return mean and standard deviation."""
    if sample is None:
        return DASH
    mean = format_metric(sample.mean, metric)
    if sample.deviation is None:
        return mean
    if "seconds" in metric:  # to the digits of the mean
        return f"{mean} ± {sample.deviation:.{len(mean.partition('.')[2])}f}"
    return f"{mean} ± {format_metric(sample.deviation, metric)}"


def format_published(sample: MeanStd, metric: str) -> str:
    """Return a published mean and deviation, the deviation with the digits it has."""
    deviation = "" if sample.deviation is None else f" ± {sample.deviation or '0.0'}"
    mean = f"{sample.mean:,g}" if "seconds" in metric and sample.mean < 1000 else format_metric(sample.mean, metric)
    return f"{mean}{deviation}"


def format_difference(value: float, metric: str) -> str:
    """Return a difference with its sign."""
    return f"{MINUS if value < 0 else '+'}{format_metric(abs(value), metric)}"


def format_p(p: float | None, name: str = "") -> str:
    """Return a p-value, after ``name =`` or ``name <`` where a name is given."""
    text = DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
    return f"{name} {'' if text.startswith('<') else '= '}{text}" if name else text


def scale_words(scale: dict[str, Any], replaced: list[str]) -> str:
    """Return what was changed against the paper, such as ``MiniLM for RoBERTa-base, 2,000 samples``.

    Args:
        scale: As manifests have it.
        replaced: The backbones that the paper has.
    """
    words = []
    if scale.get("backbone"):
        others = [backbone_title(name) for name in replaced if name != scale["backbone"]]
        words.append(backbone_title(scale["backbone"]) + (f" for {' and '.join(others)}" if others else ""))
    if scale.get("max_samples"):
        words.append(f"{scale['max_samples']:,} samples")
    words += [f"{key} = {option}" for key, option in (scale.get("set") or {}).items()]
    return ", ".join(words) or "as published"


def reproduce_root(root: Path) -> str:
    """Return the folder for runs that continue a root: itself, or for a packed study the default one."""
    return RUNS if root.name.endswith(PACKED) else str(root)


def reproduce_command(
    table: str, scale: dict[str, Any], cell: str | None, seeds: set[int], usual: list[int], root: str
) -> str:
    """Return the command that makes a table's runs, or a cell's."""
    words = ["filtune", "reproduce", table, *(["--cells", cell] if cell else [])]
    if scale.get("max_samples"):
        words += ["--max-samples", str(scale["max_samples"])]
    if scale.get("backbone"):
        words += ["--backbone", scale["backbone"]]
    for key, option in (scale.get("set") or {}).items():
        words += ["--set", f"{key}={option}"]
    if seeds and seeds != set(usual):
        words += ["--seeds", str(max(seeds) + 1)]
    if root != RUNS:
        words += ["--root", root]
    return shlex.join(words)
