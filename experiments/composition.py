"""Configurations composed of parts and options, as plain nested dictionaries.

Parts are merged in their order, later ones over earlier ones, before they are parsed: a file says only what differs
from the defaults, and what was said about one class is dropped when another class takes its place.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from filtune.lightning_modules.legacy import translate
from filtune.lightning_modules.yaml_loader import load_yaml, parse_value

from filtune.suggestions import did_you_mean, nearest

from .classes import find_class, public_path
from .escaping import plain

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""The configurations that ship with filtune."""

Config = dict[str, Any]

_WITH_CLASS = ("data", "optimizer", "measurement")
_OF_CLASS = ("class_path", "init_args", "dict_kwargs")
_SECTIONS = ("data", "optimizer", "model", "trainer", "run")
_CHOICES = {
    "optimizer": ("optimizer", "class_path"),
    "task": ("data", "class_path"),
    "backbone": ("model.backbone", "name"),
    "trainer": ("trainer", "accelerator"),
}
"""By folder of configs/: the section that a file there replaces as a whole, and the option that marks it as chosen."""

_OF_OPTIMIZER = ("model.schedule", "model.param_groups")
"""Options of the model that are replaced together with the optimizer."""

_WRITTEN_BY_A_RUN = "# lightning.pytorch=="


METADATA = "metadata"
"""Key of a file with what is known of its part besides options: sizes, costs, licence."""


def shipped() -> list[str]:
    """Return the names of the configurations that a run is composed of, such as ``task/sst2``."""
    parts = [path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.rglob("*.yaml")]
    return sorted(part.as_posix() for part in parts if part.parts[0] not in ("papers", "studies"))


def find_config(name: str, option: str = "--config") -> Path:
    """Return the file of a configuration: a path, or the name of what ships, such as ``task/sst2`` or ``loko``.

    Args:
        name: The path or name.
        option: The option that names it, for the message.

    Raises:
        ValueError: If there is no such file; the message suggests similar names or lists all.
    """
    found = name.removeprefix("configs/")
    for path in (Path(name), CONFIGS / found, CONFIGS / f"{found}.yaml", CONFIGS / "optimizer" / f"{found}.yaml"):
        if name and path.is_file():
            return path
    if not name:
        raise ValueError(f"{option}: needs a name or path, for example {option} task/digits")
    if Path(name).is_dir():
        inside = f"; use {Path(name) / 'config.yaml'}" if (Path(name) / "config.yaml").is_file() else ""
        raise ValueError(f"{option} {name}: is a folder{inside}")
    known = shipped()
    short = {part.removeprefix("optimizer/"): part for part in known}
    near = did_you_mean(nearest(found.removesuffix(".yaml"), [*known, *short]))
    words = near or f"shipped with filtune are {', '.join(known)}"
    raise ValueError(f"{option} {name}: no such file; {words}")


def compose(parts: Iterable[str], *options: dict[str, Any]) -> Config:
    """Merge configurations by name, later ones over earlier ones, and set dotted options.

    Names of earlier releases are translated. A part that names another optimizer drops the options, the schedule and
    the parameter groups of the one before, and so does a file of ``configs/optimizer`` that names the same one. A file
    of ``configs/task``, ``backbone`` or ``trainer`` drops what another file of its folder said; all else stays.

    Args:
        parts: Configurations, by name or path.
        options: Values by dotted key; ``data.source`` stands for ``data.init_args.source``, ``optimizer.lr`` alike.

    Raises:
        ValueError: If a part is not there, or is no configuration.
    """
    merged: Config = {}
    for part in parts:
        merged = add_part(merged, find_config(part))
    for values in options:
        for key, value in values.items():
            assign(merged, key, copy.deepcopy(value))
    return merged


def add_part(merged: Config, path: Path, *, kind: str | None = None) -> Config:
    """Return a configuration with a file merged over it.

    Args:
        merged: The configuration so far; not modified.
        path: The file.
        kind: The choice that the file replaces as a whole; by default given by its folder in ``configs/``.

    Raises:
        ValueError: If the file is no configuration.
    """
    content, by_hand = read_part(path)
    if odd := [key for key in content if not isinstance(key, str)]:
        raise ValueError(f"--config {path}: {odd[0]!r} is no key of a configuration; it must be a word")
    folder = path.resolve().parent
    if kind is None and folder.parent == CONFIGS:
        kind = folder.name
    return merge_over(merged, _with_current_names(content, merged, path, by_hand), kind=kind)


def merge_over(merged: Config, new: Config, *, kind: str | None = None) -> Config:
    """Return the union of two configurations, the new one winning; the options of another class are dropped.

    Args:
        merged: The configuration so far; not modified.
        new: The configuration merged over it.
        kind: The choice that the new one replaces as a whole: ``optimizer``, ``task``, ``backbone`` or ``trainer``.
    """
    before, after = (lookup(part, "optimizer.class_path") for part in (merged, new))
    if before and after and before != after:
        kind = kind or "optimizer"
    if kind in _CHOICES:
        place, mark = _CHOICES[kind]
        if lookup(merged, f"{place}.{mark}") and lookup(new, f"{place}.{mark}"):
            merged = copy.deepcopy(merged)
            for key in (place, *_OF_OPTIMIZER) if kind == "optimizer" else _chosen(merged, kind, place):
                way, _, last = key.rpartition(".")
                if isinstance(holder := lookup(merged, way) if way else merged, dict):
                    holder.pop(last, None)
    return _merge(merged, new)


def _chosen(merged: Config, kind: str, place: str) -> list[str]:
    """Return the options, by dotted key, to which a shipped file of this kind gives the value that they have."""
    given = {
        (key, repr(value))
        for path in (CONFIGS / kind).glob("*.yaml")
        for key, value in _flat(lookup(read_part(path)[0], place) or {}, place)
    }
    return [key for key, value in _flat(lookup(merged, place) or {}, place) if (key, repr(value)) in given]


def _flat(tree: Config, place: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value and key == "init_args":
            yield from _flat(value, f"{place}.{key}")
        else:
            yield f"{place}.{key}", value


def read_part(path: Path) -> tuple[Config, bool]:
    """Return the options of a configuration's file, and whether it was written by hand rather than by a run.

    Raises:
        ValueError: If it is not a configuration; the message has the line and column.
    """
    content, by_hand = _read(path.resolve(), path.stat().st_mtime_ns)
    return {key: value for key, value in content.items() if key != METADATA}, by_hand


def metadata(kind: str, name: str) -> Config:
    """Return the metadata of a shipped file; empty for a user-defined part.

    Of a task: ``train_samples``, ``val_samples``, ``classes`` (1 for a regression), ``download_mb``, ``licence``.
    Of a backbone: ``title``, ``parameters_m`` (millions), ``download_mb``, and ``gflops`` of the forward pass of one
    sample (224 pixels, or about 32 tokens).

    Args:
        kind: The folder of configs/: ``task`` or ``backbone``.
        name: The name of a file there.
    """
    path = CONFIGS / kind / f"{Path(name).name[:100]}.yaml"  # a record may have any name; none leads out of the folder
    return (_read(path, path.stat().st_mtime_ns)[0].get(METADATA) or {}) if path.is_file() else {}


@cache
def _read(path: Path, _: int) -> tuple[Config, bool]:
    text, content = load_yaml(path, f"--config {path}")
    if not isinstance(content, dict):
        kind = {list: "a list", type(None): "empty"}.get(type(content), "a single value")
        raise ValueError(f"--config {path}: is {kind}, not a mapping of options such as seed_everything: 0")
    return content, not text.startswith(_WRITTEN_BY_A_RUN)


def notice(words: str) -> None:
    """Print a note in one line, once, in the first process of a run."""
    if words not in _said and os.environ.get("RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"filtune: note: {plain(words)}", file=sys.stderr)
    _said.add(words)


_said: set[str] = set()


def _with_current_names(content: Config, merged: Config, path: Path, by_hand: bool) -> Config:
    """Return a part with current names, and class paths for class names.

    Options of an optimizer are renamed if its class is one of filtune's.
    """
    label, content = f"--config {path}", nested(copy.deepcopy(content), f"--config {path}: ")
    for section in _WITH_CLASS:
        name = lookup(content, f"{section}.class_path")
        if isinstance(name, str) and "." not in name:
            found = find_class(section, name, f"{path}: {section}.class_path")
            content[section]["class_path"] = public_path(found)
    optimizer = content.get("optimizer")
    options_alone = isinstance(optimizer, dict) and "class_path" not in optimizer
    if options_alone:
        content["optimizer"] = {**optimizer, "class_path": lookup(merged, "optimizer.class_path")}
    try:
        new = translate(content)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    if options_alone:
        del content["optimizer"]["class_path"], new["optimizer"]["class_path"]
    if new == content:
        return content
    if by_hand:
        _report_renames(content, new, path)
    return new


def nested(content: Config, label: str = "") -> Config:
    """Return a part whose options of classes are all in ``init_args``, without the sections that say nothing.

    ``data: digits`` names a class, ``data: {max_samples: 20}`` sets an option of the class that another part names.

    Args:
        content: The part, changed in place.
        label: What a message begins with.

    Raises:
        ValueError: If an option is given both ways.
    """
    for section in _SECTIONS:
        if section in content and content[section] is None:  # all of it is commented out
            del content[section]
    for section in _WITH_CLASS:
        if isinstance(content.get(section), str):
            content[section] = {"class_path": content[section]}
        given = content.get(section)
        if not isinstance(given, dict):
            continue
        inside = given.pop("init_args", None) or {}
        if not isinstance(inside, dict):
            raise ValueError(f"{label}{section}.init_args: must be a mapping such as {{name: value}}, got {inside!r}")
        for name in [name for name in given if name not in _OF_CLASS]:
            if name in inside:
                raise ValueError(f"{label}{section}.{name}: is given twice, in init_args as well; leave one out")
            inside[name] = given.pop(name)
        if inside:
            given["init_args"] = dict(inside)
    return content


def _report_renames(old: Config, new: Config, path: Path) -> None:
    for place in ("optimizer.class_path", "data.class_path"):
        before, after = lookup(old, place), lookup(new, place)
        if before != after:
            notice(f"{path}: {before} is renamed to {after}")
    for place in ("optimizer.init_args", "model", "run"):
        before, after = lookup(old, place) or {}, lookup(new, place) or {}
        gone = [key for key in before if key not in after or before[key] != after[key]]
        here = [f"{key}: {value}" for key, value in after.items() if key not in before or before[key] != value]
        if gone:
            section = place.partition(".")[0]
            was = ", ".join(f"{key}: {before[key]}" for key in gone)
            notice(f"{path}: options of {section} are renamed: {was} to {', '.join(here)}")


def _merge(old: Config, new: Config) -> Config:
    """Return the union of two nested dictionaries, the new one winning; the options of another class are dropped."""
    if "class_path" in new and old.get("class_path", new["class_path"]) != new["class_path"]:
        return copy.deepcopy(new)
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def expand(key: str) -> list[str]:
    """Return the path of a dotted key."""
    path = key.split(".")
    if path[0] in _WITH_CLASS and len(path) > 1 and path[1] not in ("class_path", "init_args"):
        path.insert(1, "init_args")
    return path


def assign(config: Config, key: str, value: Any) -> None:
    """Set a dotted key in place.

    Raises:
        ValueError: If the key leads through something that holds no options.
    """
    *way, last = expand(key)
    place = config
    for step in way:
        if place.get(step) is None:
            place[step] = {}
        place = place[step]
        if not isinstance(place, dict):
            raise ValueError(f"{key}: {step} has no options")
    place[last] = value


def lookup(config: Config, key: str, default: Any = None) -> Any:
    """Return the value of a dotted key."""
    place: Any = config
    for step in expand(key):
        if not isinstance(place, dict) or step not in place:
            return default
        place = place[step]
    return place


def data_options(section: Any) -> Iterator[Config]:
    """Yield the options of a data module, given its section of a configuration, and of the streams that it draws from.

    Args:
        section: The section ``data``, or an entry of ``streams``.
    """
    options = section.get("init_args") if isinstance(section, dict) else None
    if isinstance(options, dict):
        yield options
        streams = options.get("streams")
        for stream in streams if isinstance(streams, list) else []:
            yield from data_options(stream)


def parse_options(pairs: Sequence[str], option: str, example: str = "data.max_samples=1000") -> dict[str, Any]:
    """Return values by key from ``KEY=VALUE``.

    Raises:
        ValueError: If there is no equals sign.
    """
    parsed = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{option} {pair}: is to be KEY=VALUE, such as {option} {example}")
        parsed[key.strip()] = parse_value(value.strip())
    return parsed


def grid_points(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return all combinations of a grid's values, by dotted key; one empty combination without a grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def point_name(point: dict[str, Any]) -> str:
    """Return the name of a grid point: ``lr=0.001,beta=0.9``."""
    return ",".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in point.items())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else re.sub(r"[\s/]+", "", str(value))
