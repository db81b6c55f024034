"""The command line of ``fit`` and ``validate``: configurations merged in order, then the options of the line.

``--optimizer`` and ``--data`` take the name of a class or of a configuration: first a class of just that name, then a
file of ``configs/optimizer`` or ``configs/task``, then a class of that name in another case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from filtune.experiments.classes import classes, find_class, public_path
from filtune.experiments.composition import CONFIGS, Config, add_part, find_config, lookup, merge_over, nested, notice
from filtune.lightning_modules.legacy import has_renamed_options, translate_key, translate_optimizer
from filtune.lightning_modules.runs import CONFIG, find_checkpoint
from filtune.lightning_modules.trust import OwnClasses, named_classes
from filtune.lightning_modules.yaml_loader import DuplicateKeyError, parse_value, parse_yaml

from .suggestions import suggest

FOLDERS = {"optimizer": "optimizer", "data": "task"}
"""Folder of configs/ with the configurations that ``--optimizer`` and ``--data`` accept."""

_ALONE = ("help", "h", "print_config")


@dataclass(frozen=True)
class Given:
    """An option of the command line.

    Attributes:
        key: Its dotted key, such as ``optimizer.lr``.
        value: Its value as written; None for an option without a value.
    """

    key: str
    value: str | None

    @property
    def argument(self) -> str:
        """The option as one argument of a command line."""
        return f"--{self.key}" if self.value is None else f"--{self.key}={self.value}"


@dataclass(frozen=True)
class CommandLine:
    """A command line, read.

    Attributes:
        config: The configurations, merged, and the classes that the line names.
        options: The other options, in their order.
        parts: The files that were merged.
        own: Class paths from elsewhere than filtune that may be imported; None for any.
    """

    config: Config = field(default_factory=dict)
    options: list[Given] = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)
    own: OwnClasses = None


def split(args: Iterable[str]) -> tuple[list[str], list[Given]]:
    """Return the configurations of a command line and its other options.

    Args:
        args: The command line after the command.

    Raises:
        ValueError: If an option has no value, or something stands there that is no option.
    """
    rest, configs, options = iter(args), [], []
    for arg in rest:
        name, equals, value = arg.partition("=")
        if not arg.startswith("-") or arg.strip("-") == "":
            raise ValueError(f"{arg}: not an option; for a configuration write --config {arg}")
        key = name.lstrip("-")
        given = value if equals else None
        if given is None and key not in _ALONE and not key.endswith(".help"):
            given = next(rest, None)
            if given is None:
                raise ValueError(f"{name}: needs a value")
        if name in ("--config", "-c"):
            configs.append(given or "")
        else:
            options.append(Given(key, given))
    return configs, options


def read_line(args: Iterable[str], own: OwnClasses = None) -> CommandLine:
    """Merge the configurations of a command line in their order, wherever they stand, and the classes that it names.

    Args:
        args: The command line after the command.
        own: Class paths from elsewhere than filtune that configurations may name, beside those that the line names; by
            default any.

    Raises:
        ValueError: Naming what does not exist or cannot be read.
        ForeignClassError: If a configuration names a class that it may not name.
    """
    configs, options = split(args)
    own = None if own is None else {*own, *_named_on_line(options)}
    line = CommandLine(parts=[find_config(name) for name in configs], own=own)
    config: Config = {}
    for part in line.parts:
        config = add_part(config, part)
    left = []
    for option in options:
        _check_mapping(option)
        section = _named_section(option.key)
        if section:
            config = choose_class(config, section, option.value or "")
        else:
            left.append(option)
    for section in FOLDERS:
        if isinstance(path := lookup(config, f"{section}.class_path"), str):
            config[section]["class_path"] = public_path(find_class(section, path, f"{section}.class_path", own))
    return replace(line, config=config, options=_current_options(left, config))


def with_run_config(args: list[str]) -> list[str]:
    """Return the arguments of ``validate``, with the configuration of the checkpoint's run where none is given.

    Raises:
        ValueError: If there is no such checkpoint, or no configuration beside it.
    """
    configs, options = split(args)
    path = next((option.value for option in options if option.key == "ckpt_path"), None)
    if configs or path in (None, "", "last"):
        return args
    checkpoint = find_checkpoint(Path(path))
    config = checkpoint.resolve().parents[1] / CONFIG
    if config.is_file():
        return ["--config", str(config), *args]
    if any(option.key.partition(".")[0] in FOLDERS for option in options):
        return args
    if not checkpoint.is_file():
        raise ValueError(f"ckpt_path: there is no checkpoint {path}")
    raise ValueError(f"ckpt_path: {config.parent} has no {CONFIG}; name the run's configuration by --config")


def _check_mapping(option: Given) -> None:
    """Refuse an option whose value is a mapping with a key twice."""
    if "{" in (option.value or ""):
        try:
            parse_value(option.value or "")
        except ValueError as error:
            raise ValueError(f"--{option.key}={error}") from None


def _named_on_line(options: Iterable[Given]) -> set[str]:
    """Return the class paths that the options of a command line name."""
    found = set()
    for option in options:
        value = parse_value(option.value or "") if "{" in (option.value or "") else option.value
        found |= {str(path) for _, path in named_classes(value)} | ({value} if isinstance(value, str) else set())
    return found


def _named_section(key: str) -> str | None:
    section = key.removesuffix(".class_path")
    return section if section in FOLDERS else None


def choose_class(config: Config, section: str, name: str, option: str = "") -> Config:
    """Return a configuration with a class, or a configuration of one, taken by its name.

    Args:
        config: The configuration so far; not modified.
        section: ``optimizer`` or ``data``.
        name: A class in any case, its class path, or the name or path of a configuration.
        option: The option that names it, for messages; by default that of the section.

    Raises:
        ValueError: If there is neither; the message suggests similar names.
    """
    if name.lstrip().startswith("{"):
        try:
            content = parse_yaml(name)
        except yaml.YAMLError as error:
            problem = error.problem if isinstance(error, DuplicateKeyError) else "is not YAML; write {class_path: NAME}"
            raise ValueError(f"{option or f'--{section}'} {name}: {problem}") from None
        return merge_over(config, nested({section: content})) if isinstance(content, dict) else config
    if name not in classes(section) and (path := _configuration(section, name)):
        return add_part(config, path, kind=FOLDERS[section])
    return merge_over(config, {section: {"class_path": public_path(_class(section, name, option or f"--{section}"))}})


def _configuration(section: str, name: str) -> Path | None:
    folder = FOLDERS[section]
    short = name.removeprefix("configs/").removeprefix(f"{folder}/").removesuffix(".yaml")
    own = Path(name)
    for path in (own if own.suffix in (".yaml", ".yml") else None, CONFIGS / folder / f"{short}.yaml"):
        if path is not None and path.is_file():
            return path
    return None


def _class(section: str, name: str, option: str) -> type:
    if not name:
        raise ValueError(f"{option}: needs a name; there are {', '.join(classes(section))}")
    if section == "data" and Path(name).exists():
        raise ValueError(f"--data {name}: not a data module; use --config task/own_text --data.source {name}")
    known = {*classes(section), *(path.stem for path in (CONFIGS / FOLDERS[section]).glob("*.yaml"))}
    same = [found for found in classes(section) if found.lower() == name.lower()]
    if Path(name).suffix in (".yaml", ".yml"):
        raise ValueError(f"{option} {name}: no such file; {suggest(Path(name).stem, known)}")
    if not same and "." not in name:
        raise ValueError(f"{option} {name}: no such class or configuration; {suggest(name, known)}")
    return find_class(section, name, option)


def _current_options(options: list[Given], config: Config) -> list[Given]:
    """Return the options of the command line under their current names."""
    found = []
    for option in options:
        key = option.key.replace(".init_args.", ".", 1)
        renamed = key if key.startswith("optimizer.") else translate_key(key)
        if renamed != key:
            if any(other.key == renamed for other in options):
                raise ValueError(f"--{key} and --{renamed} are one option under two names; leave --{key} out")
            notice(f"--{key} is renamed to --{renamed}")
        found.append(replace(option, key=renamed))
    if not has_renamed_options(lookup(config, "optimizer.class_path")):
        return found
    return _current_optimizer_options(found)


def _current_optimizer_options(options: list[Given]) -> list[Given]:
    """Return the options with those of the optimizer under their current names; values of some of them meant more."""
    names = [option.key.removeprefix("optimizer.") for option in options]
    own = {
        name: parse_value(option.value or "")
        for option, name in zip(options, names, strict=True)
        if option.key.startswith("optimizer.") and re.fullmatch(r"\w+", name)
    }
    new = translate_optimizer(own)
    changed = {name: value for name, value in new.items() if repr(own.get(name)) != repr(value)}  # NaN is not itself
    gone = [name for name in own if name not in new or name in changed]
    if not gone:
        return options
    added = [Given(f"optimizer.{name}", _text(value)) for name, value in changed.items()]
    before = " ".join(f"--optimizer.{name}={own[name]}" for name in gone)
    notice(f"{before} is renamed to {' '.join(option.argument for option in added)}")
    kept = [o for o, name in zip(options, names, strict=True) if not (o.key.startswith("optimizer.") and name in gone)]
    return [*kept, *added]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
