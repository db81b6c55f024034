"""Optimizers and data modules by name, and the options of each.

Every class in ``optimizers/`` or ``datamodules/`` is found: it becomes known by its name when its file is dropped into
the folder. The folders are imported when a class is asked for, not before.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from filtune.lightning_modules.defaults import constructor_arguments, import_class
from filtune.lightning_modules.legacy import translate_class_path
from filtune.lightning_modules.trust import OwnClasses, check_own

import filtune
from filtune.suggestions import suggest

BASES = {"optimizer": ("optimizers", "OnlineOptimizer"), "data": ("datamodules", "StreamDataModule")}
"""By section of a configuration: the folder of its classes, and their base class."""

SKIPPED = {"optimizer": {"params"}, "data": set[str]()}
"""Arguments of constructors that are not options."""


@dataclass(frozen=True)
class Option:
    """An option of a class.

    Attributes:
        name: Name of the constructor's argument.
        hint: Its type.
        default: Its default.
        required: Whether it has no default.
        help: Its docstring.
    """

    name: str
    hint: Any
    default: Any
    required: bool
    help: str


@cache
def classes(section: str) -> dict[str, type]:
    """Return the classes that a section of a configuration may name, by name.

    Args:
        section: ``optimizer`` or ``data``.
    """
    folder, name = BASES[section]
    package = importlib.import_module(f"filtune.{folder}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    found = {cls.__name__: cls for cls in _subclasses(getattr(package, name)) if _is_part(cls, package.__name__)}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _subclasses(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _is_part(cls: type, package: str) -> bool:
    """Return whether a class can be chosen, rather than being a base of others.

    Bases are abstract or say so, or take torch's ``defaults``, or have subclasses and are no public names.
    """
    base = inspect.isabstract(cls) or vars(cls).get("abstract", False)
    base = base or "defaults" in inspect.signature(cls).parameters
    base = base or bool(cls.__subclasses__() and cls.__name__ not in importlib.import_module(package).__all__)
    here = cls.__module__.startswith(f"{package}.") and cls.__module__ in sys.modules  # not of a file that is gone
    return here and not cls.__name__.startswith("_") and not base


def public_path(cls: type) -> str:
    """Return the class path under which a configuration names a class: ``filtune.LoKO``."""
    if getattr(filtune, cls.__name__, None) is cls:
        return f"filtune.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def optimizer_label(section: Mapping[str, Any]) -> str:
    """Return the name under which an optimizer is shown: its class's, or that of the class which it wraps.

    Args:
        section: ``class_path`` and ``init_args`` of a configuration; the class is not imported.
    """
    arguments = section.get("init_args")
    wrapped = arguments.get("name") if isinstance(arguments, Mapping) else None
    return str(wrapped or section.get("class_path", "?")).rpartition(".")[2]


def find_class(section: str, path: str, option: str = "", own: OwnClasses = None) -> type:
    """Return a class by its name in any case, or by its class path.

    Args:
        section: ``optimizer`` or ``data``.
        path: The name or class path.
        option: The option that names it, for messages; by default that of the section.
        own: Class paths from elsewhere than filtune that may be imported; by default any, as a configuration of the
            user's may name them.

    Raises:
        ValueError: If there is none; the message suggests similar names.
        ForeignClassError: If it is not of filtune and not among ``own``.
    """
    option = option or f"--{section}"
    folder, _, name = translate_class_path(path).rpartition(".")
    if folder and folder.partition(".")[0] != "filtune":
        check_own(path, option, own)
        return _import(section, folder, name, option)
    known = classes(section)
    if name in known:
        return known[name]
    same = [cls for found, cls in known.items() if found.lower() == name.lower()]
    if len(same) == 1:
        return same[0]
    raise ValueError(f"{option} {path}: no such class; {suggest(name, known)}")


def _import(section: str, folder: str, name: str, option: str) -> type:
    try:
        found = getattr(importlib.import_module(folder), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{option} {folder}.{name}: cannot be imported ({error})") from error
    package, base = BASES[section]
    if not inspect.isclass(found) or not issubclass(
        found, getattr(importlib.import_module(f"filtune.{package}"), base)
    ):
        raise ValueError(f"{option} {folder}.{name}: is not a subclass of filtune.{base}")
    return found


def check_option(config: dict[str, Any], key: str, option: str) -> None:
    """Check that the class of a configuration has an option.

    Args:
        config: The configuration, with class paths.
        key: The dotted key; keys that are not of a class are not checked.
        option: The option of the command that names the key, for the message.

    Raises:
        ValueError: If it has not, or there is no measurement that could have it; the message suggests similar names.
    """
    section, _, name = key.partition(".")
    path = (config.get(section) or {}).get("class_path")
    if section == "measurement" and not path:
        raise ValueError(f"{option} {key}: there is no measurement that could have this option; leave it out")
    if not path:
        return
    cls = find_class(section, path) if section in SKIPPED else import_class(path)
    known = constructor_arguments(cls).keys() - {"params"}
    name = name.removeprefix("init_args.").partition(".")[0]
    if cls is not None and name not in known and name != "class_path":
        raise ValueError(f"{option} {key}: no such option; {suggest(name, known)}")


@cache
def options(section: str, cls: type) -> dict[str, Option]:
    """Return the options of a class by name, including those passed on as ``**kwargs``."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "x", skip=SKIPPED[section], fail_untyped=False)
    found = {}
    for action in parser._actions:  # argparse has no public way to list its options
        place, _, name = action.dest.partition(".")
        if place == "x" and name and "." not in name:
            hint = getattr(action, "_typehint", None) or action.type
            help_text = " ".join((action.help or "").split())
            found[name] = Option(name, hint, action.default, bool(action.required), help_text)
    return found
