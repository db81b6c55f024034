"""Numbers, metrics and scales as people read them."""

from __future__ import annotations

import shlex
from typing import Any

from .statistics import Sample

MINUS, DASH = "\u2212", "\u2013"
"""As they are typeset; the dash where there is no figure."""

TIMES = ("wall_seconds", "seconds_per_step", "mean_seconds_per_step")
"""Metrics that differ between machines."""

_METRICS = {
    "online_accuracy": "average online accuracy (%)",
    "online_pearson": "online Pearson correlation (%)",
    "online_top5": "average online top-5 accuracy (%)",
    "online_loss": "average online loss",
    "online_nll": "prequential log loss (nats)",
    "online_brier": "prequential Brier score",
    "online_ece": "prequential calibration error (%)",
    "online_moderated_nll": "prequential log loss, moderated (nats)",
    "online_moderated_brier": "prequential Brier score, moderated",
    "online_moderated_ece": "prequential calibration error, moderated (%)",
    "val_accuracy": "validation accuracy (%)",
    "val_matthews": "Matthews correlation on validation (%)",
    "val_pearson": "Pearson correlation on validation (%)",
    "val_spearman": "Spearman correlation on validation (%)",
    "val_f1": "F1 on validation (%)",
    "val_loss": "validation loss",
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
_BACKBONES = {
    "minilm": "MiniLM",
    "minilm_dora": "MiniLM with DoRA",
    "lenet5": "LeNet-5",
    "roberta_base": "RoBERTa-base",
    "roberta_large": "RoBERTa-large",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "densenet121": "DenseNet-121",
    "vit_small": "ViT-S",
    "vit_base": "ViT-B",
    "vit_large": "ViT-L",
    "vit_base_dinov2": "ViT-B (DINOv2)",
}


def metric_title(metric: str) -> str:
    """A metric's name with its unit."""
    return _METRICS.get(metric, metric.replace("_", " "))


def curve_title(tag: str) -> str:
    """A logged scalar's name."""
    return _CURVES.get(tag) or metric_title(tag.replace("/", "_"))


def backbone_title(name: str) -> str:
    """A backbone's name as papers have it."""
    return _BACKBONES.get(name, name)


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a loss or a time."""
    return "loss" in metric or "seconds" in metric or metric == "steps_to_convergence"


def figure(value: float | None, metric: str) -> str:
    """A number with the digits that its metric deserves."""
    if value is None:
        return DASH
    if metric == "steps_to_convergence" or "parameters" in metric:
        return f"{value:,.0f}"
    if "seconds" in metric:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return f"{value:.4f}" if "loss" in metric else f"{value:.2f}"


def spread(sample: Sample | None, metric: str) -> str:
    """Mean and deviation."""
    if sample is None:
        return DASH
    mean = figure(sample.mean, metric)
    if sample.deviation is None:
        return mean
    if "seconds" in metric:  # to the digits of the mean
        return f"{mean} ± {sample.deviation:.{len(mean.partition('.')[2])}f}"
    return f"{mean} ± {figure(sample.deviation, metric)}"


def printed(sample: Sample, metric: str) -> str:
    """A published mean and deviation, the deviation with the digits it has."""
    deviation = "" if sample.deviation is None else f" ± {sample.deviation or '0.0'}"
    mean = f"{sample.mean:,g}" if "seconds" in metric and sample.mean < 1000 else figure(sample.mean, metric)
    return f"{mean}{deviation}"


def signed(value: float, metric: str) -> str:
    """A difference, with its sign."""
    return f"{MINUS if value < 0 else '+'}{figure(abs(value), metric)}"


def probability(p: float | None) -> str:
    """A p-value."""
    return DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def clock(seconds: float) -> str:
    """A time."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def scale_words(scale: dict[str, Any], replaced: list[str]) -> str:
    """What was changed against the paper, such as ``MiniLM for RoBERTa-base, 2,000 samples``.

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


def command(table: str, scale: dict[str, Any], cell: str | None, seeds: set[int], usual: list[int], root: str) -> str:
    """The command that makes a table's runs, or a cell's."""
    words = ["filtune", "reproduce", table, *(["--cells", cell] if cell else [])]
    if scale.get("max_samples"):
        words += ["--max-samples", str(scale["max_samples"])]
    if scale.get("backbone"):
        words += ["--backbone", scale["backbone"]]
    for key, option in (scale.get("set") or {}).items():
        words += ["--set", f"{key}={option}"]
    if seeds and seeds != set(usual):
        words += ["--seeds", str(max(seeds) + 1)]
    if root != "runs/reproduce":
        words += ["--root", root]
    return shlex.join(words)
