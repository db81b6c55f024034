"""The fields of records, manifests and summaries: each is checked before anything is computed from it.

A file may be damaged, cut and repaired by hand, written by a stranger, or of a release that is not known here. Each
check returns what is wrong first, such as ``metrics.val_loss is 'x', not a number``, or an empty text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from filtune.lightning_modules.legacy import translate_figure

FORMAT = 1
"""Format of records, manifests and packed studies."""

_TABLE = r"[^./\\][^/\\]{0,120}(?<!\.yaml)(?<!\.yml)"

LARGEST = 1e100
"""The greatest number that is taken for a result; squares of larger ones overflow."""


TIMES = ("wall_seconds", "seconds_per_step", "mean_seconds_per_step")
"""Seconds of a run, and of its steps."""


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        name: In a message, after ``not``.
        accepts: Whether a value is of this kind.
    """

    name: str
    accepts: Callable[[Any], bool]

    def or_none(self) -> Kind:
        """Return the kind of these values and None."""
        return Kind(self.name, lambda value: value is None or self.accepts(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not re.search("[\x00\ud800-\udfff]", value)


def _matches(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**63


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST or (isinstance(value, float) and not math.isfinite(value))


def _is_curve(value: Any) -> bool:
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, list) for part in value)):
        return False
    steps, values = value
    ascending = all(_is_count(step) for step in steps) and steps == sorted(steps)
    return ascending and len(steps) == len(values) and all(_is_number(number) for number in values)


TEXT = Kind("a text", _is_text)
COUNT = Kind("a whole number", _is_count)
NUMBER = Kind("a number", _is_number)
FINITE = Kind("a finite number", lambda value: _is_number(value) and math.isfinite(value))
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict) and all(_is_text(key) for key in value))
LIST = Kind("a list", lambda value: isinstance(value, list))
CURVE = Kind("a curve: ascending steps and as many numbers", _is_curve)
STATUS = Kind("finished or diverged", lambda value: value in ("finished", "diverged"))
KEY = Kind("a key", lambda value: _matches(value, r"[0-9A-Za-z_][0-9A-Za-z_.~-]{0,120}"))
SEED = Kind("a seed", lambda value: _matches(value, "[0-9]{1,18}"))
TABLE = Kind("a table's name", lambda value: _is_text(value) and _matches(value, _TABLE))

Fields = Mapping[str, Kind]

_NEEDED: Fields = {
    "status": STATUS, "task": TEXT, "backbone": TEXT, "optimizer": TEXT, "seed": COUNT, "config": MAPPING,
    "metrics": MAPPING, "curves": MAPPING, "times": MAPPING,
}  # fmt: skip
_KNOWN: Fields = {
    **dict.fromkeys(("reason", "commit"), TEXT.or_none()),
    **dict.fromkeys(("samples", "steps"), COUNT.or_none()),
    "steps_to_convergence": FINITE.or_none(),
    **dict.fromkeys(("environment", "data_fingerprint", "maps"), MAPPING.or_none()),
}
_TIMES: Fields = {
    **dict.fromkeys(TIMES, FINITE.or_none()),
    "finished_at": TEXT.or_none(),
}
_SCALE: Fields = {"max_samples": COUNT.or_none(), "backbone": TEXT.or_none(), "set": MAPPING.or_none()}
_SWEEP: Fields = {"grid": MAPPING.or_none(), "metric": TEXT.or_none(), "halving": COUNT.or_none()}
_SUMMARY: Fields = {"optimizer": TEXT, "task": TEXT, "backbone": TEXT, "samples": COUNT, "val": MAPPING}
_OF_SUMMARY: Fields = {
    **dict.fromkeys(("steps", "train_rows", "val_rows", "seed"), COUNT.or_none()),
    **dict.fromkeys(TIMES, FINITE.or_none()),
    **dict.fromkeys(("score", "commit"), TEXT.or_none()),
    **dict.fromkeys(("versions", "event_bytes", "data_fingerprint"), MAPPING.or_none()),
}


def each(content: Any, fields: Fields, place: str = "", needed: bool = True) -> Iterator[str]:
    """Yield what is wrong with fields, each with its name.

    Args:
        content: What has the fields.
        fields: The kind of each.
        place: What comes before their names.
        needed: Whether one that is missing is a fault.
    """
    if not isinstance(content, dict):
        yield "it is not a mapping"
        return
    for name, kind in fields.items():
        if name not in content:
            if needed:
                yield f"it has no {place}{name}"
        elif not kind.accepts(content[name]):
            yield f"{place}{name} is {_shown(content[name])}, not {kind.name}"


def record_fault(record: Any, of_store: bool = True) -> str:
    """Return what is wrong with a record.

    Args:
        record: Its content, in the names of any release.
        of_store: Whether it is of a store, and has a format and a key.
    """
    return next(_record_faults(record, of_store), "")


def _record_faults(record: Any, of_store: bool) -> Iterator[str]:
    if of_store:
        yield from _head(record, "record", {"key": KEY})
    yield from each(record, _NEEDED if of_store else {**_NEEDED, "seed": COUNT.or_none()})
    yield from each(record, _KNOWN, needed=False)
    yield from each(record["metrics"], dict.fromkeys(record["metrics"], NUMBER.or_none()), "metrics.")
    yield from each(record["curves"], dict.fromkeys(record["curves"], CURVE), "curves.")
    yield from each(record["times"], _TIMES, "times.", needed=False)
    yield from each(record.get("environment") or {}, {"versions": MAPPING.or_none()}, "environment.", needed=False)


def manifest_fault(manifest: Any) -> str:
    """Return what is wrong with a manifest, whose ``cells`` are keys of records by seed and cell."""
    return next(_manifest_faults(manifest), "")


def _manifest_faults(manifest: Any) -> Iterator[str]:
    yield from _head(manifest, "manifest", {"cells": MAPPING, "seeds": LIST})
    yield from each(manifest, dict.fromkeys(("scale", "missing", "sweep"), MAPPING.or_none()), needed=False)
    yield from each(manifest, {"table": TABLE.or_none()}, needed=False)
    for seed in manifest["seeds"]:
        yield from each({"seeds": seed}, {"seeds": COUNT})
    for cell, keys in manifest["cells"].items():
        yield from each({cell: keys}, {cell: MAPPING}, "cells.")
        yield from (f"cells.{cell} has {_shown(seed)}, not a seed" for seed in keys if not SEED.accepts(seed))
        yield from each(keys, dict.fromkeys(keys, KEY), f"cells.{cell}.")
    missing, sweep = manifest.get("missing") or {}, manifest.get("sweep") or {}
    yield from each(missing, dict.fromkeys(missing, TEXT), "missing.")
    yield from each(manifest.get("scale") or {}, _SCALE, "scale.", needed=False)
    yield from each(sweep, _SWEEP, "sweep.", needed=False)
    yield from each(sweep.get("grid") or {}, dict.fromkeys(sweep.get("grid") or {}, LIST), "sweep.grid.")


def summary_fault(summary: Any) -> str:
    """Return what is wrong with the summary of a run, of this release or an earlier one."""
    return next(_summary_faults(summary), "")


def _summary_faults(summary: Any) -> Iterator[str]:
    yield from each(summary, _SUMMARY)
    yield from each(summary, _OF_SUMMARY, needed=False)
    online = [name for name in summary if translate_figure(name).startswith("online_")]
    yield from each(summary, dict.fromkeys(online, NUMBER.or_none()))
    yield from each(summary["val"], dict.fromkeys(summary["val"], NUMBER.or_none()), "val.")
    sizes = summary.get("event_bytes") or {}
    yield from each(sizes, dict.fromkeys(sizes, COUNT), "event_bytes.")
    yield from (f"event_bytes has {_shown(name)}, not a file of the run" for name in sizes if "/" in name)


def config_fault(config: Any) -> str:
    """Return what is wrong with the configuration of a run: what pages and tables show of it."""
    if not MAPPING.accepts(config):
        return "it is not a mapping"
    optimizer = config.get("optimizer") or {}
    checks = (
        each(config, {"optimizer": MAPPING.or_none(), "seed_everything": Kind("a seed", _is_seed)}, needed=False),
        each(optimizer, {"class_path": TEXT.or_none(), "init_args": MAPPING.or_none()}, "optimizer.", needed=False)
        if isinstance(optimizer, dict)
        else iter(()),
    )
    return next((fault for check in checks for fault in check), "")


def _is_seed(value: Any) -> bool:
    return value is None or isinstance(value, bool) or _is_count(value)


def _head(content: Any, kind: str, fields: Fields) -> Iterator[str]:
    """Return what is wrong with the format and the first fields."""
    if not isinstance(content, dict):
        yield f"it is no {kind}"
        return
    version = content.get("format")
    if _is_count(version) and version > FORMAT:
        yield f"it is a {kind} of format {version}, this filtune reads {FORMAT}; update filtune"
    if version != FORMAT or isinstance(version, bool):
        yield f"it is no {kind}: it has no format"
    yield from each(content, fields)


def _shown(value: Any) -> str:
    return repr(value if isinstance(value, str | int | float | bool | None) else type(value).__name__)[:60]
