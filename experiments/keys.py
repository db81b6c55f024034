"""The key of a run: a versioned hash of its seed and of what its configuration changes against the defaults.

``v2-`` and 16 hexadecimal digits of the SHA-256 of the canonical configuration. Canonical means:

* old names are translated (:mod:`filtune.lightning_modules.legacy`), and class paths are those of the public names;
* an option that equals the default of the constructor it goes to is left out, so that a new option with a default
  changes no key, and neither does writing out a default;
* numbers are compared by value: ``1``, ``1.0`` and the string ``1e0`` are one number, ``true`` is not ``1``;
* what says where or how a run is made, and not what it computes, is left out: ``run``, ``ckpt_path``.

Data and weights enter by their names as configured. A hub id with ``--local ID=FOLDER`` has the same key on every
machine; a folder given as the name itself is part of the key as it is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import re
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, get_args, get_type_hints

from filtune.lightning_modules.legacy import translate, translate_optimizer

from .composition import Config

KEY_VERSION = "v2"
"""First part of a key. Keys without it are those of earlier releases: hashes of the configuration as it was written."""

TRAINER_DEFAULTS = {"max_epochs": 1, "precision": "32-true"}
"""Defaults of a run where they differ from those of Lightning's Trainer, or are another spelling of them."""

_IGNORED = ("run", "ckpt_path", "seed_everything", "config")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NONE = inspect.Parameter.empty


class Option(NamedTuple):
    """An argument of a constructor.

    Attributes:
        default: Its default; ``inspect.Parameter.empty`` where it has none.
        holds: The dataclass of which it holds one or several, given as dictionaries; None for plain values.
    """

    default: Any
    holds: type | None


def run_key(config: Config, seed: int) -> str:
    """Return the key of a run.

    Args:
        config: The composed configuration, in today's or in earlier names.
        seed: The run's seed.
    """
    text = json.dumps({"config": differences(config), "seed": seed}, sort_keys=True, separators=(",", ":"))
    return f"{KEY_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def differences(config: Config) -> Config:
    """Return the canonical form of a configuration: what differs from the defaults, in today's names."""
    found = {}
    for section, value in translate(config).items():
        if section in _IGNORED or value is None:
            continue
        options = _section_options(section)
        kept = _canonical(value) if options is None else _differing(value, options)
        if kept not in ({}, None):
            found[section] = kept
    return found


def complete(config: Config) -> Config:
    """Return a configuration in today's names with the defaults of its model, data and optimizer written out.

    A record keeps this form, so that it says what a run was made with even when a default changes later; its key is
    that of the configuration itself.
    """
    new = translate(config)
    for section in ("data", "optimizer"):
        part = new.get(section)
        if isinstance(part, dict) and isinstance(part.get("class_path"), str):
            options = _class_options(part["class_path"], section == "optimizer")
            part["init_args"] = {**_defaults(options), **(part.get("init_args") or {})}
    if isinstance(new.get("model"), dict):
        options = _section_options("model") or {}
        model = {**_defaults(options), **new["model"]}
        for name, value in model.items():
            holds = options[name].holds if name in options else None
            if holds is not None and isinstance(value, dict):
                model[name] = {**_defaults(_options(holds)), **value}
        new["model"] = model
    return new


def _section_options(section: str) -> dict[str, Option] | None:
    """Options of the sections whose class is fixed; None for those that name their class."""
    if section == "model":
        found = _options(_find_class("filtune.OnlineModule"))
        return {name: found[old] for name, old in _renamed(section, found)}
    if section == "trainer":
        from lightning.pytorch import Trainer

        found = {name: Option(option.default, None) for name, option in _options(Trainer).items()}
        return found | {name: Option(value, None) for name, value in TRAINER_DEFAULTS.items()}
    return None


def _renamed(section: str, options: dict[str, Option]) -> list[tuple[str, str]]:
    """Today's and the class's own name of each option of a section."""
    return [(next(iter(translate({section: {name: None}})[section])), name) for name in options]


@cache
def _class_options(path: str, is_optimizer: bool = False) -> dict[str, Option]:
    """Options of a class by its path; none of a class that cannot be imported, which then has no known default."""
    found = _options(_find_class(path))
    if not is_optimizer:
        return found
    defaults = translate_optimizer({name: option.default for name, option in found.items()})
    return {name: Option(default, found[name].holds if name in found else None) for name, default in defaults.items()}


@cache
def _find_class(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module or "filtune"), name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


@cache
def _options(cls: type | None) -> dict[str, Option]:
    """Arguments of a constructor; with ``**kwargs`` those of the base classes too."""
    if cls is None:
        return {}
    if dataclasses.is_dataclass(cls):
        hints = _hints(cls)
        return {f.name: Option(_field_default(f), _held(hints.get(f.name))) for f in dataclasses.fields(cls) if f.init}
    found: dict[str, Option] = {}
    for base in cls.__mro__:
        init: Any = base.__dict__.get("__init__")
        if init is None or base is object:
            continue
        parameters, hints = inspect.signature(init).parameters.values(), _hints(init)
        for parameter in list(parameters)[1:]:  # without self
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, Option(parameter.default, _held(hints.get(parameter.name))))
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _field_default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _NONE if field.default is dataclasses.MISSING else field.default


def _hints(source: Any) -> dict[str, Any]:
    try:
        return get_type_hints(source)
    except (NameError, TypeError, AttributeError):  # annotations that only a type checker can resolve
        return {}


def _held(annotation: Any) -> type | None:
    """The dataclass in an annotation such as ``Schedule | None`` or ``list[Segment]``."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    return next((held for part in get_args(annotation) if (held := _held(part)) is not None), None)


def _defaults(options: dict[str, Option]) -> Config:
    """The defaults that a record can hold: plain values."""
    found = {}
    for name, option in options.items():
        plain = dataclasses.asdict(option.default) if _is_instance(option.default) else option.default
        plain = list(plain) if isinstance(plain, tuple) else plain
        if option.default is not _NONE and isinstance(plain, str | int | float | bool | list | dict | None):
            found[name] = plain
    return found


def _is_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _differing(values: Config, options: dict[str, Option]) -> Config:
    """Canonical options without those that equal their default."""
    found = {}
    for name, value in values.items():
        option = options.get(name, Option(_NONE, None))
        kept = _canonical(value, option.holds)
        if option.default is _NONE or not _same(kept, _canonical(option.default, option.holds)):
            found[name] = kept
    return {name: kept for name, kept in found.items() if not (kept == {} and options.get(name, _EMPTY).holds)}


_EMPTY = Option(_NONE, None)


def _same(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)  # by which true is not 1


def _canonical(value: Any, holds: type | None = None) -> Any:
    """Return a value such that two spellings of it are equal, without the defaults of classes within it."""
    if _is_instance(value):
        holds, value = type(value), dataclasses.asdict(value)
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            return _canonical_class(value)
        return _differing(value, _options(holds)) if holds else {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, holds) for item in value]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-3 as a string
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            return str(float(value))
        return int(value) if float(value).is_integer() else float(value)
    return value if isinstance(value, str | bool | None) else repr(value)


def _canonical_class(value: Config) -> Config:
    path = value["class_path"]
    cls = _find_class(path)
    own = cls is not None and cls.__module__.partition(".")[0] == "filtune"
    is_optimizer = cls is not None and ".optimizers." in f"{cls.__module__}."
    kept = _differing(value.get("init_args") or {}, _class_options(path, is_optimizer))
    return {"class_path": f"filtune.{cls.__name__}" if own and cls else path, **({"init_args": kept} if kept else {})}
