"""Defaults of the options that a configuration leaves out, from the signatures of the classes it names.

Two configurations are the same run where they differ only in what they spell out: a checkpoint of an earlier release
lacks the options that were added since, and a short configuration lacks all that is at its default.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, get_args, get_type_hints

Options = dict[str, Any]

ABSENT = inspect.Parameter.empty

TRAINER_DEFAULTS = {"max_epochs": 1, "precision": "32-true"}
"""Defaults of a run where they differ from those of Lightning's Trainer, or are another spelling of them."""


class Argument(NamedTuple):
    """An argument of a constructor.

    Attributes:
        default: Its default; ``ABSENT`` where it has none.
        holds: The dataclass of which it holds one or several, given as dictionaries; None for plain values.
        several: Whether it holds a list of them.
    """

    default: Any
    holds: type | None = None
    several: bool = False


UNKNOWN = Argument(ABSENT)
"""What is known of an argument that a class does not have."""


def with_defaults(config: Options, model: type | None = None, by_module: bool = False) -> Options:
    """Return a configuration with the options of its classes that it leaves out, as far as they are plain values.

    Args:
        config: A configuration in today's names; ``optimizer``, ``data`` and what they contain are given by
            ``class_path`` and ``init_args``. A class that is not known has no known default.
        model: The class whose options ``model`` are; without it, these stay as they are.
        by_module: Whether the path of a class becomes that of the module that defines it, which is one whatever name
            it was imported by.
    """
    found = {section: _complete(value, None, by_module) for section, value in config.items()}
    if isinstance(config.get("model"), dict):
        found["model"] = _filled(config["model"], constructor_arguments(model), by_module)
    return {**found, "trainer": TRAINER_DEFAULTS | (found.get("trainer") or {})}


@cache
def constructor_arguments(cls: type | None) -> dict[str, Argument]:
    """Return the arguments of a class's constructor; none of a class that is not known.

    Arguments that ``**kwargs`` passes on are those of the next constructor in the order of inheritance.
    """
    if cls is None:
        return {}
    if is_dataclass(cls):
        hints, own = _hints(cls), [f for f in fields(cls) if f.init]
        made = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in own}
        found = {name: (ABSENT if value is MISSING else value, hints.get(name)) for name, value in made.items()}
    else:
        from filtune.optimizers.parts import constructor_parameters

        found = {name: (option.default, option.annotation) for name, option in constructor_parameters(cls).items()}
    held = {name: held_dataclass(hint) for name, (_, hint) in found.items()}
    return {
        name: Argument(default, held[name], held[name] not in (hint, *get_args(hint)))
        for name, (default, hint) in found.items()
    }


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


def _complete(value: Any, holds: type | None, by_module: bool) -> Any:
    """Return a value with the options it leaves out, by its class path or by the dataclass that it describes."""
    if isinstance(value, list | tuple):
        return [_complete(item, holds, by_module) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("class_path"), str):
        cls = import_class(value["class_path"])
        path = f"{cls.__module__}.{cls.__qualname__}" if cls and by_module else value["class_path"]
        given = _filled(value.get("init_args") or {}, constructor_arguments(cls), by_module)
        return {**value, "class_path": path, **({"init_args": given} if given else {})}
    if holds is not None:
        return _filled(value, constructor_arguments(holds), by_module)
    return {name: _complete(item, None, by_module) for name, item in value.items()}


def _filled(given: Options, known: dict[str, Argument], by_module: bool) -> Options:
    """Return options with the defaults of those that are left out."""
    found = {}
    for name, value in {**{name: _as_written(option.default) for name, option in known.items()}, **given}.items():
        option = known.get(name, UNKNOWN)
        stands_for_defaults = value is None is option.default and option.holds and not option.several
        if value is not ABSENT:
            found[name] = _complete({} if stands_for_defaults else value, option.holds, by_module)
    return found


def _as_written(default: Any) -> Any:
    """Return a default as a file has it: a dataclass as a dictionary, ``ABSENT`` for what no file can have."""
    value = asdict(default) if is_dataclass(default) and not isinstance(default, type) else default
    value = list(value) if isinstance(value, tuple) else value
    return value if isinstance(value, str | int | float | bool | list | dict | None) else ABSENT
