"""The fields of records, manifests and summaries: each is checked before anything is computed from it.

A file may be damaged, cut and repaired by hand, written by a stranger, or of a release that is not known here. Each
check returns what is wrong first, such as ``metrics.val_loss is 'x', not a number``, or an empty text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

from filtune.lightning_modules.legacy import translate_figure

P = ParamSpec("P")

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
SEED_OR_SWITCH = Kind("a seed", lambda value: value is None or isinstance(value, bool) or _is_count(value))
TABLE = Kind("a table's name", lambda value: _is_text(value) and _matches(value, _TABLE))

PICTURE = Kind("a PNG in base64", lambda value: _matches(value, r"iVBORw0KGgo[0-9A-Za-z+/]{0,100000}={0,2}"))

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
    **dict.fromkeys((*TIMES, "process_seconds"), FINITE.or_none()),
    "finished_at": TEXT.or_none(),
}
_SCALE: Fields = {"max_samples": COUNT.or_none(), "backbone": TEXT.or_none(), "set": MAPPING.or_none()}
_SWEEP: Fields = {"grid": MAPPING.or_none(), "metric": TEXT.or_none(), "halving": COUNT.or_none()}
_SUMMARY: Fields = {"optimizer": TEXT, "task": TEXT, "backbone": TEXT, "samples": COUNT, "val": MAPPING}
_SAMPLE: Fields = {"loss": FINITE, "position": COUNT, "probability": FINITE}
_OPTIMIZER: Fields = {"class_path": TEXT.or_none(), "init_args": MAPPING.or_none()}
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


def first_fault(check: Callable[P, Iterator[str]]) -> Callable[P, str]:
    """Return a check that returns the first fault that is found; an empty text if there is none."""

    @wraps(check)
    def first(*args: P.args, **kwargs: P.kwargs) -> str:
        return next(check(*args, **kwargs), "")

    return first


@first_fault
def record_fault(record: Any, of_store: bool = True) -> Iterator[str]:
    """Yield what is wrong with a record.

    Args:
        record: Its content, in the names of any release.
        of_store: Whether it is of a store, and has a format and a key.
    """
    if of_store:
        yield from _head(record, "record", {"key": KEY})
    yield from each(record, _NEEDED if of_store else {**_NEEDED, "seed": COUNT.or_none()})
    yield from each(record, _KNOWN, needed=False)
    yield from each(record["metrics"], dict.fromkeys(record["metrics"], NUMBER.or_none()), "metrics.")
    yield from each(record["curves"], dict.fromkeys(record["curves"], CURVE), "curves.")
    yield from each(record["times"], _TIMES, "times.", needed=False)
    yield from each(record.get("environment") or {}, {"versions": MAPPING.or_none()}, "environment.", needed=False)


@first_fault
def manifest_fault(manifest: Any) -> Iterator[str]:
    """Yield what is wrong with a manifest, whose ``cells`` are keys of records by seed and cell."""
    yield from _head(manifest, "manifest", {"cells": MAPPING, "seeds": LIST})
    yield from each(manifest, dict.fromkeys(("scale", "missing", "sweep"), MAPPING.or_none()), needed=False)
    yield from each(manifest, {"table": TABLE.or_none(), "file": TEXT.or_none()}, needed=False)
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


@first_fault
def summary_fault(summary: Any) -> Iterator[str]:
    """Yield what is wrong with the summary of a run, of this release or an earlier one."""
    yield from each(summary, _SUMMARY)
    yield from each(summary, _OF_SUMMARY, needed=False)
    online = [name for name in summary if translate_figure(name).startswith("online_")]
    yield from each(summary, dict.fromkeys(online, NUMBER.or_none()))
    yield from each(summary["val"], dict.fromkeys(summary["val"], NUMBER.or_none()), "val.")
    sizes = summary.get("event_bytes") or {}
    yield from each(sizes, dict.fromkeys(sizes, COUNT), "event_bytes.")
    yield from (f"event_bytes has {_shown(name)}, not a file of the run" for name in sizes if "/" in name)


@first_fault
def predictions_fault(predictions: Any) -> Iterator[str]:
    """Yield what is wrong with the predictions of a run: counts by class, and the worst samples."""
    yield from each(predictions, {"classes": LIST, "samples": COUNT, "worst": LIST})
    names, confusion = predictions["classes"], predictions.get("confusion")
    for name in names:
        yield from each({"classes": name}, {"classes": TEXT})
    classes = Kind("a class", lambda value: COUNT.accepts(value) and value < len(names))
    counts = Kind("a list of a count per class", lambda row: isinstance(row, list) and len(row) == len(names))
    if confusion is not None and not counts.accepts(confusion):
        yield f"confusion is {_shown(confusion)}, not a row per class"
    for row in confusion or []:
        yield from each({"confusion": row}, {"confusion": counts})
        yield from (fault for count in row for fault in each({"confusion": count}, {"confusion": COUNT}))
    for sample in predictions["worst"]:
        yield from each(sample, {**_SAMPLE, **dict.fromkeys(("label", "predicted"), classes)}, "worst.")
        yield from each(sample, {"row": COUNT, "text": LIST, "image": PICTURE}, "worst.", needed=False)
        yield from (
            fault for text in sample.get("text", []) for fault in each({"text": text}, {"text": TEXT}, "worst.")
        )


@first_fault
def config_fault(config: Any) -> Iterator[str]:
    """Yield what is wrong with the configuration of a run: what pages and tables show of it."""
    if not MAPPING.accepts(config):
        yield "it is not a mapping"
    yield from each(config, {"optimizer": MAPPING.or_none(), "seed_everything": SEED_OR_SWITCH}, needed=False)
    yield from each(config.get("optimizer") or {}, _OPTIMIZER, "optimizer.", needed=False)


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
