"""The key of a run: a versioned hash of its seed and of what its configuration changes against the defaults.

``v2-`` and 16 hexadecimal digits of the SHA-256 of the canonical configuration. Canonical means:

* old names are translated (:mod:`filtune.lightning_modules.legacy`), and class paths are those of the public names;
* an option that equals the default of the constructor it goes to is left out, so that a new option with a default
  changes no key, and neither does writing out a default;
* numbers are compared by value: ``1``, ``1.0`` and the string ``1e0`` are one number, ``true`` is not ``1``;
* options of a part of an optimizer are those of the optimizer where it has them: ``covariance: {name: low_rank,
  rank: 5}`` is ``covariance: low_rank, rank: 5``;
* settings that say where a run is made and what it displays are left out: ``run``, ``ckpt_path``, and of ``trainer``
  the accelerator, the progress bar, the model summary, the loggers and their folder.

``devices``, ``strategy`` and ``precision`` change results and are part of the key. So is ``log_every_n_steps``, the
spacing of the curves in a record, from which its steps to convergence are counted.

Data and weights enter by their names as configured. A hub id with ``--local ID=FOLDER`` has the same key on every
machine; a folder given as the name itself is part of the key as it is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from contextlib import suppress
from importlib import import_module
from typing import Any

from filtune.lightning_modules.defaults import (
    ABSENT,
    TRAINER_DEFAULTS,
    UNKNOWN,
    Argument,
    constructor_arguments,
    import_class,
    with_defaults,
)
from filtune.lightning_modules.legacy import translate, with_former_defaults
from filtune.lightning_modules.trust import named_classes
from filtune.lightning_modules.yaml_loader import parse_number

from .composition import Config

KEY_VERSION = "v2"
"""First part of a key. Keys without it are those of earlier releases: hashes of the configuration as it was written."""

_IGNORED = ("run", "ckpt_path", "seed_everything", "config")
_IGNORED_OF_TRAINER = ("accelerator", "default_root_dir", "enable_model_summary", "enable_progress_bar", "logger")


def run_key(config: Config, seed: int) -> str:
    """Return the key of a run.

    Args:
        config: The composed configuration, in today's or in earlier names. It is the user's: the classes of the user's
            own that it names are imported, for their defaults are left out of the key.
        seed: The run's seed.
    """
    import_named(config)
    return _key(config, seed)


def record_key(record: dict[str, Any]) -> str:
    """Return the key that a record's configuration has today; nothing that it names is imported."""
    return _key(with_former_defaults(record["config"]), record["seed"])


def _key(config: Config, seed: int) -> str:
    text = json.dumps({"config": canonical_form(config), "seed": seed}, sort_keys=True, separators=(",", ":"))
    return f"{KEY_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def import_named(config: Config) -> None:
    """Import the modules of the classes that a user's configuration names."""
    for _, path in named_classes(translate(config)):
        if module := str(path).rpartition(".")[0]:
            with suppress(Exception):  # of a user's module; a class that cannot be imported has no known defaults
                import_module(module)


def canonical_form(config: Config) -> Config:
    """Return the canonical form of a configuration: what differs from the defaults, in today's names."""
    found = {}
    for section, value in translate(config).items():
        if section in _IGNORED or value is None:
            continue
        if section == "trainer":
            value = {name: option for name, option in value.items() if name not in _IGNORED_OF_TRAINER}
        options = _section_options(section)
        kept = _canonical(value) if options is None else _differing(value, options)
        if kept not in ({}, None):
            found[section] = kept
    return found


def complete(config: Config) -> Config:
    """Return a configuration in today's names with the defaults of its classes and dataclasses written out.

    A record keeps this form, so that it says what a run was made with even when a default changes later. As long as
    none does, its key is that of the configuration itself.
    """
    return with_defaults(translate(config), import_class("filtune.OnlineModule"))


def _section_options(section: str) -> dict[str, Argument] | None:
    """Return options of the sections whose class is fixed; None for those that name their class."""
    if section == "model":
        return constructor_arguments(import_class("filtune.OnlineModule"))
    if section == "trainer":
        from lightning.pytorch import Trainer

        found = {name: Argument(option.default) for name, option in constructor_arguments(Trainer).items()}
        return found | {name: Argument(value) for name, value in TRAINER_DEFAULTS.items()}
    return None


def _differing(values: Config, options: dict[str, Argument]) -> Config:
    """Return canonical options without those that equal their default."""
    found = {}
    for name, value in values.items():
        option = options.get(name, UNKNOWN)
        kept = _canonical(value, option.holds)
        if option.default is ABSENT or not _same(kept, _canonical(option.default, option.holds)):
            found[name] = kept
    return {name: kept for name, kept in found.items() if not (kept == {} and options.get(name, UNKNOWN).holds)}


def _same(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)  # by which true is not 1


def _canonical(value: Any, holds: type | None = None) -> Any:
    """Return a value such that two spellings of it are equal, without the defaults of classes within it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        holds, value = type(value), dataclasses.asdict(value)
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            return _canonical_class(value)
        return (
            _differing(value, constructor_arguments(holds))
            if holds
            else {str(k): _canonical(v) for k, v in value.items()}
        )
    if isinstance(value, list | tuple):
        return [_canonical(item, holds) for item in value]
    value = parse_number(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(float(value))
        return int(value) if value.is_integer() else value
    return value if isinstance(value, str | bool | int | None) else repr(value)


def _canonical_class(value: Config) -> Config:
    path = value["class_path"]
    cls = import_class(path)
    own = cls is not None and cls.__module__.partition(".")[0] == "filtune"
    is_optimizer = cls is not None and ".optimizers." in f"{cls.__module__}."
    options, given = constructor_arguments(cls), value.get("init_args") or {}
    kept = _differing(_lift_parts(given, options) if is_optimizer else given, options)
    return {"class_path": f"filtune.{cls.__name__}" if own and cls else path, **({"init_args": kept} if kept else {})}


def _lift_parts(values: Config, options: dict[str, Argument]) -> Config:
    """Return an optimizer's options with those of a part as its own, where it has them and no other part does."""
    from filtune.optimizers.parts import Part

    families = {family.kind: family.registry for family in Part.__subclasses__()}
    found = dict(values)
    for kind, spec in values.items():
        if kind not in families or not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            continue
        others = [part for other, registry in families.items() if other != kind for part in registry.values()]
        shared = {name for part in others for name in part.options()}
        part = families[kind].get(spec["name"])
        defaults = {} if part is None else part.options()
        kept = {"name": spec["name"]}
        for name, value in spec.items():
            is_own = name in options and name not in shared
            if is_own and (name not in values or _equals(values[name], options[name].default)):
                found[name] = value
            elif name in options or name not in defaults or not _equals(value, defaults[name]):
                kept[name] = value
        found[kind] = kept if len(kept) > 1 else spec["name"]
    return found


def _equals(value: Any, default: Any) -> bool:
    return default is not ABSENT and _same(_canonical(value), _canonical(default))
