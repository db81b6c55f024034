"""Names of earlier releases, translated when a configuration, a checkpoint or a record is read; nothing is rewritten.

The tables map what was to what is. Every reader of a configuration (the command line, the restoring of a checkpoint,
the records of runs) goes through :func:`translate`; adding a rename takes one line here.
"""

from __future__ import annotations

import copy
from typing import Any

Config = dict[str, Any]

CLASSES = {
    "optimizers": {
        "AdaGrad": "adagrad",
        "AdamW": "adamw",
        "EKF": "ekf",
        "Filtune": "filtune",
        "LoKO": "loko",
        "NGD": "ngd",
        "RENG": "reng",
        "RING": "ring",
        "RKalman": "r_kalman",
        "SAM": "sam",
        "SGD": "sgd",
        "Sophia": "sophia",
    },
    "datamodules": {
        "ChangingDataModule": "changing",
        "DigitsDataModule": "digits",
        "ImageDataModule": "image",
        "TextDataModule": "text",
    },
}
"""Classes of the packages that earlier releases installed, with their modules: ``optimizers.LoKO`` is ``filtune.LoKO``.

This is history and grows no more: classes of one's own, even in a package of these names, are left alone.
"""

NOISE_WITHOUT = {
    "softmax": ("beta", "r0"),
    "mode": ("beta", "r0"),
    "identity": ("beta",),
    "annealed": ("beta",),
}
"""Options that a noise of earlier releases ignored; now they are refused."""

OPTIMIZER_OPTIONS = {
    "likely": "top_k",
    "renew": "head_reset_scale",
    "forget": "forgetting_factor",
    "window": "nis_window",
    "keep": "rows_per_sample",
    "buffer": "buffer_size",
    "explode": "divergence_threshold",
    "max_rows": "chunk_size",
    "row_tolerance": "rank_tolerance",
    "floor": "min_relative_damping",
    "inverse": "inverse_method",
    "fisher": "fisher_type",
    "unfactored": "unsupported_params",
    "unfactored_lr": "fallback_lr",
    "adapt": "damping_schedule",
    "grad_reg": "grad_penalty",
    "literal": "paper_exact",
}
"""Options of optimizers that have another name now."""

OPTIMIZER_VALUES: dict[tuple[str, Any], Config] = {
    ("jacobian", "batched"): {"vectorize": True},
    ("jacobian", "loop"): {"vectorize": False},
    ("covariance", "tensor"): {"covariance": "block_per_tensor"},
    ("covariance", "neuron"): {"covariance": "block_per_neuron"},
    ("covariance", "low-rank"): {"covariance": "low_rank", "buffer_size": 0},
    ("covariance", "buffered"): {"covariance": "low_rank"},
    ("noise", "mode"): {"update": "posterior_mode"},
    ("noise", "ema-minus"): {"noise": "ema_innovation"},
    ("fisher", "sampled"): {"fisher_type": "mc"},
    ("inverse", "newton-printed"): {"inverse_method": "newton-paper"},
}
"""Options of optimizers whose value had another meaning or name, and what they are now."""

ADDED_OPTIONS: dict[str, Config] = {"Filtune": {"adapter_scale": 1.0}}
"""Options that complete configurations of earlier releases lack, by class, with what was done before they existed."""

MODEL_OPTIONS = {"average": "weight_averaging"}
CHECKPOINT_KEYS = {"average": "weight_averaging"}
"""Keys of a checkpoint's entry ``filtune``."""

RUN_OPTIONS = {"against": "baselines", "checkpoint_every": "save_interval"}

SUMMARY_FIELDS = {"online_moderated_": "online_predictive_"}
"""Prefixes of figures in ``summary.json`` and records that have another name now."""


def translate_class_path(path: str) -> str:
    """Return a class path in today's names: ``optimizers.LoKO`` becomes ``filtune.LoKO``."""
    folder, _, rest = path.partition(".")
    module, _, name = rest.rpartition(".")
    known = CLASSES.get(folder, {})
    return f"filtune.{name}" if name in known and module in ("", known[name]) else path


def has_renamed_options(path: str | None) -> bool:
    """Return whether options of an optimizer may stand in names of earlier releases: not those of one's own class."""
    return path is None or str(path) in {f"filtune.{name}" for name in CLASSES["optimizers"]}


def _check_once(section: str, name: str, becomes: Config, options: Config) -> None:
    """Refuse an option that is given under its earlier and under its present name."""
    for new in becomes:
        if new != name and new in options:
            before, now = f"{section}.{name} {options[name]!r}", f"{section}.{new} {options[new]!r}"
            raise ValueError(f"{before} and {now} are given, which is one option under two names; leave {name} out")


def translate_optimizer(options: Config, earlier: bool = False) -> Config:
    """Return an optimizer's options in today's names.

    Options that a covariance or a noise of earlier releases ignored are left out, for today they are refused.

    Args:
        options: The options.
        earlier: Whether an earlier release wrote them.

    Raises:
        ValueError: If an option stands there under two names.
    """
    noise, covariance = options.get("noise"), options.get("covariance")
    if earlier and isinstance(noise, str):
        options = {name: value for name, value in options.items() if name not in NOISE_WITHOUT.get(noise, ())}
    if "buffer" in options and covariance in ("diagonal", "full", "tensor", "neuron"):
        options = {name: value for name, value in options.items() if name not in ("rank", "buffer", "keep")}
    found: Config = {}
    for name, value in options.items():
        hashable = isinstance(value, str | int | float | bool)
        known = OPTIMIZER_VALUES.get((name, value)) if hashable else None
        _check_once("optimizer", name, known or {OPTIMIZER_OPTIONS.get(name, name): value}, options)
        found |= known if known is not None else {OPTIMIZER_OPTIONS.get(name, name): value}
    if covariance == "low-rank":
        found |= {"buffer_size": 0, "rows_per_sample": 0}  # it had neither, whatever the options said
    if covariance == "buffered":
        found.setdefault("buffer_size", 10)
    return found


def translate(config: Config) -> Config:
    """Return a run's configuration in today's names; the original is left as it is.

    Args:
        config: The content of ``config.yaml``, of a checkpoint's ``config`` or of a record's.

    Raises:
        ValueError: If an option stands there under two names.
    """
    new = copy.deepcopy(config)
    _translate_class_paths(new)
    optimizer = new.get("optimizer")
    if isinstance(optimizer, dict) and isinstance(optimizer.get("init_args"), dict):
        path = optimizer.get("class_path")
        if has_renamed_options(path):
            earlier = path != config["optimizer"].get("class_path")
            optimizer["init_args"] = translate_optimizer(optimizer["init_args"], earlier)
    for section, names in (("model", MODEL_OPTIONS), ("run", RUN_OPTIONS)):
        if isinstance(new.get(section), dict):
            for key, value in new[section].items():
                _check_once(section, key, {names.get(key, key): value}, new[section])
            new[section] = {names.get(key, key): value for key, value in new[section].items()}
    return new


def with_former_defaults(config: Config) -> Config:
    """Return a complete configuration with the options that came later, at what was done without them.

    Args:
        config: A configuration in which all defaults are written out, such as a record's or ``config.yaml``.
    """
    new = translate(config)
    optimizer = new.get("optimizer")
    module, _, name = str((optimizer or {}).get("class_path")).rpartition(".")
    if name in ADDED_OPTIONS and module.partition(".")[0] in ("", "filtune"):
        optimizer["init_args"] = {**ADDED_OPTIONS[name], **(optimizer.get("init_args") or {})}
    return new


def translate_checkpoint(entry: Config) -> Config:
    """Return a checkpoint's entry ``filtune`` in today's names; the original is left as it is."""
    new = {CHECKPOINT_KEYS.get(key, key): value for key, value in entry.items()}
    return {**new, "config": translate(new["config"])} if isinstance(new.get("config"), dict) else new


def translate_key(key: str) -> str:
    """Return a dotted option in today's names: ``optimizer.likely`` becomes ``optimizer.top_k``."""
    section, _, rest = key.partition(".")
    names = {"optimizer": OPTIMIZER_OPTIONS, "model": MODEL_OPTIONS, "run": RUN_OPTIONS}.get(section, {})
    *way, last = rest.split(".")
    return ".".join([section, *way, names.get(last, last)]) if rest and (section == "optimizer" or not way) else key


def translate_figure(name: str) -> str:
    """Return the name of a figure of ``summary.json`` or a record in today's names."""
    for old, new in SUMMARY_FIELDS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _translate_class_paths(tree: Any) -> None:
    if isinstance(tree, dict):
        if isinstance(tree.get("class_path"), str):
            tree["class_path"] = translate_class_path(tree["class_path"])
        for value in tree.values():
            _translate_class_paths(value)
    elif isinstance(tree, list):
        for value in tree:
            _translate_class_paths(value)
