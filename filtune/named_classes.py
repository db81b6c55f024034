"""Classes that the configurations of ``fit`` and ``validate`` may name.

``fit`` runs the user's own configuration, which may name optimizers, data modules, backbones, callbacks, loggers and
profilers of the user's. ``validate`` is given the configuration of a run, which may come from a stranger: there only
classes of filtune count, and those that the command line names.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

from filtune.experiments.classes import find_class
from filtune.experiments.composition import Config, lookup, notice
from filtune.lightning_modules.trust import (
    SWITCH,
    ForeignClassError,
    OwnClasses,
    allow_optimizer,
    check_own,
    check_plain,
    named_classes,
)

from .arguments import FOLDERS, CommandLine
from .explain import Schema

_PLAIN = {int, float, bool, str, type(None), timedelta, Path, list, dict}
_WORD = re.compile(r"[A-Za-z0-9_:+-]+")
_SEVERAL = {"data": "streams"}
"""Options of filtune's own classes that hold objects of the same kind."""


def own_classes(command: str, args: Sequence[str]) -> tuple[OwnClasses, list[str]]:
    """Return the classes that ``--own_class`` names and the other arguments; None for ``fit``, which takes any.

    Args:
        command: ``fit`` or ``validate``.
        args: The command line after the command.

    Raises:
        ValueError: If the option has no value, or is not for this command.
    """
    found, rest, left = [], [], iter(args)
    for arg in left:
        name, equals, value = arg.partition("=")
        if name != SWITCH:
            rest.append(arg)
            continue
        path = value if equals else next(left, "")
        if not re.fullmatch(r"\w+(\.\w+)+", path):
            raise ValueError(f"{SWITCH} {path}: needs a class path such as my_module.MyBackbone")
        found.append(path)
    if command == "fit" and found:
        raise ValueError(f"{SWITCH}: is for validate, predict and export; fit takes the classes of its configuration")
    return (None if command == "fit" else found), rest


def restricted(line: CommandLine, schema: Schema) -> CommandLine:
    """Return a command line of which the configuration names no class that it may not name.

    Callbacks, loggers and the like in a run's configuration are of its training, and are left out.

    Args:
        line: The command line; of ``fit`` it is returned as it is.
        schema: The keys that there are.

    Raises:
        ForeignClassError: Naming the place and the class.
    """
    if line.own is None:
        return line
    config = copy.deepcopy(line.config)
    _check_names(config)
    left_out = _drop_objects(config.get("trainer") or {}, schema)
    if left_out:
        names = ", ".join(left_out)
        notice(f"{names} of the configuration left out; {schema.command} takes such objects from the command line")
    check_plain(config.get("model"), "model", line.own)
    if not any(option.key == "model.backbone.name" for option in line.options):
        _check_backbone(config, line.own)
    for section in FOLDERS:
        _check_section(config, section, line.own)
    line.config.clear()
    line.config.update(config)
    return line


def _check_names(config: Config, place: str = "") -> None:
    """Refuse dotted names, which the parser would take for a way into what has been checked."""
    for name, value in config.items():
        if "." in str(name) or name == "config":
            raise ForeignClassError(f"{place}{name}: is not the name of an option; write nested mappings")
        if isinstance(value, dict) and (not place or name in ("init_args", "backbone", "schedule")):
            _check_names(value, f"{place}{name}.")


def _drop_objects(trainer: Config, schema: Schema) -> list[str]:
    """Remove the trainer's options that are objects, except plain words such as ``ddp``; return those with a value."""
    left_out = []
    for name in list(trainer):
        if not _takes_objects(schema.hints.get(f"trainer.{name}")):
            check_plain(trainer[name], f"trainer.{name}")
            continue
        value = trainer[name]
        is_word = isinstance(value, str) and _WORD.fullmatch(value) and not Path(value).exists()
        if value is None or isinstance(value, bool) or is_word:
            continue
        del trainer[name]
        left_out += [f"trainer.{name}"] if value else []
    return left_out


def _takes_objects(hint: Any) -> bool:
    if get_args(hint):
        return any(_takes_objects(kind) for kind in get_args(hint))
    return isinstance(hint, type) and hint not in _PLAIN


def _check_backbone(config: Config, own: OwnClasses) -> None:
    from filtune.lightning_modules.backbones.build import CLASS_PATH

    name = str(lookup(config, "model.backbone.name", ""))
    if CLASS_PATH.fullmatch(name) and not Path(name).exists():
        check_own(name, "model.backbone.name", own)


def _check_section(config: Config, section: str, own: OwnClasses) -> None:
    """Check the classes within the options of an optimizer or a data module."""
    options = lookup(config, f"{section}.init_args") or {}
    several = options.get(_SEVERAL.get(section, ""))
    for index, item in enumerate(several if isinstance(several, list) else []):
        path = item.get("class_path") if isinstance(item, dict) else item
        find_class(section, str(path), f"{section}.{_SEVERAL[section]}[{index}]", own)
    inside = {path for _, path in named_classes(several)}
    check_plain(config.get(section), section, {*inside, str(lookup(config, f"{section}.class_path")), *(own or ())})


def check_classes(config: Any, own: OwnClasses) -> None:
    """Check the classes of a parsed configuration before any is called.

    Args:
        config: The parsed configuration of a command.
        own: Class paths from elsewhere than filtune that it may name; None for any of the kinds that are taken.

    Raises:
        ForeignClassError: Naming the place and the class.
    """
    for place, value in _values(config):
        if not isinstance(value, Mapping):
            name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}"
            raise ForeignClassError(f"{place}: names {name}, and a configuration may name no function; leave it out")
        _check_class(place, str(value["class_path"]), own)
        if place == "optimizer":
            allow_optimizer(_imported(str(value["class_path"])), value.get("init_args") or {}, place, own)


def _values(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the places of all mappings with a class path, and of all functions and classes."""
    if hasattr(tree, "as_dict"):
        tree = vars(tree)
    if isinstance(tree, Mapping):
        if "class_path" in tree:
            yield place, tree
        for name, value in tree.items():
            yield from _values(value, f"{place}.{name}".lstrip("."))
    elif isinstance(tree, list | tuple | set):
        for index, value in enumerate(tree):
            yield from _values(value, f"{place}[{index}]")
    elif inspect.isroutine(tree) or isinstance(tree, type):
        yield place, tree


def _check_class(place: str, path: str, own: OwnClasses) -> None:
    cls = _imported(path)
    section = re.match(r"[a-z_]+(\.(callbacks|logger|profiler|optimizer_init))?", place)
    bases = _bases()
    base = bases.get(section[0] if section else "")
    if base is not None and isinstance(cls, type) and issubclass(cls, base):
        check_own(path, place, own if not _is_of(cls, "filtune", "lightning") else None)
        return
    if place.startswith("trainer.") and isinstance(cls, type) and _is_of(cls, "lightning"):
        return
    kinds = "a data module, optimizer, callback, logger or profiler, or a class of Lightning's for the trainer"
    raise ForeignClassError(f"{place}: names {path}, which may not be called; only {kinds} can be named")


def _is_of(cls: type, *packages: str) -> bool:
    return cls.__module__.partition(".")[0] in packages


def _bases() -> dict[str, type]:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.profilers import Profiler

    from filtune.datamodules import StreamDataModule
    from filtune.optimizers import OnlineOptimizer

    return {
        "data": StreamDataModule,
        "optimizer": OnlineOptimizer,
        "model.optimizer_init": OnlineOptimizer,
        "trainer.callbacks": Callback,
        "trainer.logger": Logger,
        "trainer.profiler": Profiler,
    }


def _imported(path: str) -> Any:
    """Return what a class path names; the parser has imported it."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)
