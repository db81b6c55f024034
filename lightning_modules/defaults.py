"""Defaults of the options that a configuration leaves out, from the signatures of the classes it names.

Two configurations are the same run where they differ only in what they spell out: a checkpoint of an earlier release
lacks the options that were added since, and a short configuration lacks all that is at its default.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

Options = dict[str, Any]

ABSENT = inspect.Parameter.empty


def with_defaults(config: Options, model: type | None = None) -> Options:
    """Return a run's configuration with every option of its classes, those it leaves out at their defaults.

    Args:
        config: A configuration in today's names; ``optimizer``, ``data`` and what they contain are given by
            ``class_path`` and ``init_args``. A class that is not known leaves its options as they are.
        model: The class whose options ``model`` are.
    """
    found = {key: _complete(value, None) for key, value in config.items()}
    if model is not None:
        found["model"] = _options(model, config.get("model") or {})
    found["seed_everything"] = config.get("seed_everything", 0)
    trainer = config.get("trainer") or {}
    found["trainer"] = {**trainer, "precision": trainer.get("precision") or "32-true"}
    return found


def parameter_defaults(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return (default, type) of each argument of a class's constructor, ``ABSENT`` where it has none.

    Arguments that ``**kwargs`` passes on are those of the next constructor in the order of inheritance.
    """
    if is_dataclass(cls):
        hints, own = _hints(cls), [f for f in fields(cls) if f.init]
        made = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in own}
        return {name: (ABSENT if value is MISSING else value, hints.get(name)) for name, value in made.items()}
    from filtune.optimizers.parts import constructor_parameters

    return {name: (option.default, option.annotation) for name, option in constructor_parameters(cls).items()}


def held_dataclass(hint: Any) -> type | None:
    """Return the dataclass in an annotation such as ``Schedule | None`` or ``list[Segment]``; None without one."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next((held for part in get_args(hint) if (held := held_dataclass(part)) is not None), None)


def import_class(path: str) -> type | None:
    """Return the class of a class path, or the public class of a name; None where it is not known.

    Modules of filtune are imported. Another's class is known where its module has been imported, as the configuration
    of the user's does that names it: one that stands in a checkpoint or a record is not imported for that.
    """
    module, _, name = path.rpartition(".")
    module = module or "filtune"
    try:
        is_ours = module.partition(".")[0] == "filtune"
        found = getattr(import_module(module) if is_ours else sys.modules[module], name)
    except KeyError:
        return None
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a dataclass, by name."""
    try:
        return get_type_hints(cls)
    except Exception:  # of a user's class: a name that exists for type checkers alone
        return {}


def _options(cls: type, given: Options) -> Options:
    """Return all options of a class, those of dataclasses among them as well."""
    known = parameter_defaults(cls)
    filled = {name: given.get(name, default) for name, (default, _) in known.items()}
    found = {name: _complete(value, known[name][1]) for name, value in filled.items() if value is not ABSENT}
    return {**given, **found}


def _complete(value: Any, hint: Any) -> Any:
    """Return a value with the options it leaves out, by its class path or by the dataclass of its type."""
    if isinstance(value, list | tuple):
        return [_complete(item, held_dataclass(hint)) for item in value]
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        cls = import_class(value["class_path"])
        if cls is None:
            return value
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": _options(cls, _arguments(value))}
    kind = held_dataclass(hint)
    if kind is not None and (isinstance(value, dict) or (value is None and kind in (hint, *get_args(hint)))):
        return _options(kind, value or {})
    return value


def _arguments(value: Options) -> Options:
    return value.get("init_args") or {}
