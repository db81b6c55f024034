"""Labels of runs: the optimizer, its learning rate or prior, and the options in which it differs from its like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from filtune.experiments.classes import optimizer_label
from filtune.experiments.escaping import plain
from filtune.experiments.run_folder import RunFolder

RATES = tuple(f"optimizer.init_args.{name}" for name in ("lr", "arguments.lr", "p0"))
"""Keys of the learning rate, or of the prior variance of a filter, which has none."""

_NO_OPTIONS = ("seed_everything", "run", "ckpt_path")


def run_labels(runs: Sequence[RunFolder]) -> list[str]:
    """Return a label for each run, such as ``AdamW lr=0.001``; runs that differ in their seed alone share one.

    Options are named where a run of the same optimizer, task and backbone has another value.
    """
    options = [run_options(run.config) for run in runs]
    names = [optimizer_label(run.config.get("optimizer") or {}) for run in runs]
    kinds = [
        (name, run.summary.get("task"), run.summary.get("backbone")) for name, run in zip(names, runs, strict=True)
    ]
    labels = []
    for name, own, kind in zip(names, options, kinds, strict=True):
        peers = [other for other, of in zip(options, kinds, strict=True) if of == kind]
        differing = (key for key in own if any(other.get(key) != own[key] for other in peers))
        labels.append(plain(" ".join([name, *_shown(own, dict.fromkeys([*_rates(own), *differing]))])))
    return labels


def rate_label(config: Any) -> str:
    """Return the learning rate or prior of a configuration, such as ``lr=0.001``; empty where it has none."""
    options = run_options(config)
    return plain(" ".join(_shown(options, _rates(options))))


def run_options(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the options that shape a run's result, by dotted key."""
    if not isinstance(config, dict):
        return {prefix: config}
    kept = {key: value for key, value in config.items() if prefix or key not in _NO_OPTIONS}
    return {k: v for key, value in kept.items() for k, v in run_options(value, f"{prefix}.{key}".lstrip(".")).items()}


def _rates(options: dict[str, Any]) -> list[str]:
    return [key for key in RATES if isinstance(options.get(key), int | float)][:1]


def _shown(options: dict[str, Any], keys: Iterable[str]) -> list[str]:
    return [f"{key.rpartition('.')[2]}={options[key]}" for key in keys]
