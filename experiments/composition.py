"""Configurations composed of parts and options, as plain nested dictionaries."""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""The configurations that ship with filtune."""

Config = dict[str, Any]

_WITH_CLASS = ("data", "optimizer")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def find_config(name: str) -> Path:
    """The file of a configuration: a path, or the name of what ships, such as ``task/sst2`` or ``loko``.

    Raises:
        ValueError: If there is no such file; the message lists what ships.
    """
    shipped = name.removeprefix("configs/")
    for path in (Path(name), CONFIGS / shipped, CONFIGS / f"{shipped}.yaml", CONFIGS / "optimizer" / f"{shipped}.yaml"):
        if path.is_file():
            return path
    parts = [path for path in CONFIGS.rglob("*.yaml") if "papers" not in path.parts]
    known = ", ".join(sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in parts))
    raise ValueError(f"--config {name}: no such file; shipped with filtune are {known}")


def compose(parts: Iterable[str], *options: dict[str, Any]) -> Config:
    """Merge configurations by name, later ones over earlier ones, and set dotted options.

    Args:
        parts: Configurations, by name or path.
        options: Values by dotted key; ``data.source`` stands for ``data.init_args.source``, ``optimizer.lr`` alike.

    Raises:
        ValueError: If a part is not there, or is no configuration.
    """
    merged: Config = {}
    for part in parts:
        merged = _merge(merged, _read(find_config(part).resolve()))
    for values in options:
        for key, value in values.items():
            assign(merged, key, copy.deepcopy(value))
    return merged


@cache
def _read(path: Path) -> Config:
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"--config {path}: holds no configuration")
    return content


def _merge(old: Config, new: Config) -> Config:
    """The union of two nested dictionaries, the new one winning; the options of another class are dropped."""
    if "class_path" in new and old.get("class_path", new["class_path"]) != new["class_path"]:
        return copy.deepcopy(new)
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def expand(key: str) -> list[str]:
    """Where a dotted key leads."""
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
            raise ValueError(f"{key}: {step} holds no options")
    place[last] = value


def lookup(config: Config, key: str, default: Any = None) -> Any:
    """The value of a dotted key."""
    place: Any = config
    for step in expand(key):
        if not isinstance(place, dict) or step not in place:
            return default
        place = place[step]
    return place


def parse_value(text: str) -> Any:
    """A value as YAML reads it, and ``1e-3`` as the number it is."""
    value = yaml.safe_load(text) if text else text
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def parse_options(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Values by dotted key, of ``KEY=VALUE``.

    Raises:
        ValueError: If there is no equals sign.
    """
    parsed = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{option} {pair}: is to be KEY=VALUE, such as {option} data.max_samples=1000")
        parsed[key.strip()] = parse_value(value.strip())
    return parsed


def grid_points(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations of a grid's values, by dotted key; one empty combination where there is no grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def point_name(point: dict[str, Any]) -> str:
    """A grid point in a name: ``lr=0.001,beta=0.9``."""
    return ",".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in point.items())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else re.sub(r"[\s/]+", "", str(value))


def suggest(name: str, known: Iterable[str]) -> str:
    """Words about the names that are near, else about all there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
