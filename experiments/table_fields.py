"""The fields of the file of a table or study, checked when it is read: such a file may be a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from filtune.suggestions import suggest

from .fields import COUNT, FINITE, LIST, MAPPING, TEXT, Fields, Kind, each, first_fault

NAME = Kind(
    "a short name without a slash", lambda value: TEXT.accepts(value) and 0 < len(value) < 120 and "/" not in value
)
PART = Kind("a configuration's name", lambda value: TEXT.accepts(value) and 0 < len(value) < 120)
VALUES = Kind("a list of values", lambda value: isinstance(value, list) and len(value) > 0)


def _list_of(kind: Kind) -> Kind:
    return Kind(f"a list, each {kind.name}", lambda value: LIST.accepts(value) and all(map(kind.accepts, value)))


def _mapping_to(kind: Kind) -> Kind:
    accepts = lambda value: MAPPING.accepts(value) and all(map(kind.accepts, value.values()))  # noqa: E731
    return Kind(f"a mapping, each value {kind.name}", accepts)


def _is_published(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_published(part) for part in value)
    return value is None or FINITE.accepts(value)


SEEDS, ROWS = _list_of(COUNT), _list_of(MAPPING)
PUBLISHED = Kind(
    "published results: means, or means and deviations", lambda value: isinstance(value, list) and _is_published(value)
)

RATE = Kind("none, tuned or published", lambda value: value in ("none", "tuned", "published"))
TARGETS = {"best_of", "ahead", "level", "log_loss", "validation", "share", "recovery", "streams"}
"""Fields of a target; all are numbers but ``best_of``, the names of rows."""

_FIGURE: Fields = {"title": TEXT, "panels": ROWS}
_PANEL: Fields = {
    "title": TEXT, "x": TEXT, "y": TEXT, "maps": TEXT, "cell": TEXT, "lines": MAPPING, "level": MAPPING,
    "log": Kind("a list of x and y", lambda value: isinstance(value, list) and all(v in ("x", "y") for v in value)),
    "complement": Kind("true or false", lambda value: isinstance(value, bool)),
}  # fmt: skip
_LINE: Fields = {"cell": TEXT, "y": TEXT, "stroke": TEXT}

_TABLE: Fields = {"title": TEXT, "metric": TEXT, "seeds": SEEDS, "columns": ROWS, "rows": ROWS}
_MORE: Fields = {
    "set": MAPPING.or_none(), "tuning_seeds": SEEDS.or_none(), "comparison": MAPPING.or_none(),
    "metrics": _list_of(TEXT), "published_seeds": COUNT.or_none(), "kind": TEXT, "notes": TEXT.or_none(),
    "figures": _list_of(MAPPING),
}  # fmt: skip
_COLUMN: Fields = {"name": NAME, "title": TEXT, "task": PART, "backbone": PART}
_ROW: Fields = {"name": NAME, "title": TEXT, "optimizer": PART}
_OF_COLUMN: Fields = {"set": MAPPING, "metric": TEXT.or_none(), "chosen_by": TEXT.or_none()}
_OF_MODEL = ("backbone", "optimizer")
"""Fields that a measurement may leave out."""
MEASUREMENT = "measurement.class_path"
"""The option that makes a table's cells measurements rather than runs of ``filtune fit``."""

_OF_ROW: Fields = {
    "set": MAPPING, "by_column": _mapping_to(VALUES), "grid": _mapping_to(VALUES),
    "columns": _list_of(TEXT).or_none(), "published": PUBLISHED.or_none(), "rate": RATE.or_none(),
}  # fmt: skip
_COMPARISON: Fields = {"method": TEXT, "baselines": _mapping_to(_list_of(TEXT))}
_OF_COMPARISON: Fields = {
    "targets": _mapping_to(MAPPING).or_none(), "recovery": MAPPING.or_none(), "reserved": MAPPING.or_none(),
    "discussion": TEXT.or_none(), "figure": MAPPING.or_none(),
}  # fmt: skip
_RESERVED: Fields = {"columns": _list_of(TEXT), "seeds": SEEDS}
_CHANGES = Kind(
    "sample numbers, or those of each column",
    lambda value: SEEDS.accepts(value) or _mapping_to(SEEDS).accepts(value),
)
_RECOVERY: Fields = {"changes": _CHANGES, "last": COUNT}
_LEVELS: Fields = {"level": FINITE, "share": FINITE}
"""Of these a rule has one."""


@first_fault
def table_fault(raw: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the description of a table that has cells of its own."""
    yield from each(raw, _TABLE)
    yield from each(raw, _MORE, needed=False)
    measured = any(MEASUREMENT in (part.get("set") or {}) for part in (raw, *raw["columns"], *raw["rows"]))
    for kind, needed, more in (("columns", _COLUMN, _OF_COLUMN), ("rows", _ROW, _OF_ROW)):
        if measured:
            more = {**more, **{name: needed[name] for name in _OF_MODEL if name in needed}}
            needed = {name: kind_of for name, kind_of in needed.items() if name not in _OF_MODEL}
        names: list[str] = []
        for number, part in enumerate(raw[kind], 1):
            yield from each(part, needed, f"{kind}, number {number}: ")
            yield from each(part, more, f"{kind}, {part['name']}: ", needed=False)
            if part["name"] in names:
                yield f"{kind}: {part['name']} is there twice"
            names.append(part["name"])
        if not names:
            yield f"it has no {kind}"
    yield from _figure_faults(raw.get("figures") or [])
    names = ([part["name"] for part in raw[kind]] for kind in ("rows", "columns"))
    yield from _comparison_faults(raw.get("comparison") or {}, *names)


def _figure_faults(figures: list[dict[str, Any]]) -> Iterator[str]:
    for number, figure in enumerate(figures, 1):
        yield from each(figure, _FIGURE, f"figures, number {number}: ")
        for place, panel in enumerate(figure["panels"], 1):
            label = f"figures, number {number}, panel {place}: "
            yield from each(panel, _PANEL, label, needed=False)
            yield from (f"{label}has no {name}; {suggest(name, _PANEL)}" for name in panel.keys() - _PANEL)
            yield from each(panel, dict.fromkeys(("cell",) if "maps" in panel else ("y",), TEXT), label)
            for name, line in [*(panel.get("lines") or {}).items(), *(panel.get("level") or {}).items()]:
                if not TEXT.accepts(line):
                    yield from each(line, {"cell": TEXT}, f"{label}{name}: ")
                    yield from each(line, _LINE, f"{label}{name}: ", needed=False)


def _comparison_faults(comparison: dict[str, Any], rows: list[str], columns: list[str]) -> Iterator[str]:
    if not comparison:
        return
    yield from each(comparison, _COMPARISON, "comparison.")
    yield from each(comparison, _OF_COMPARISON, "comparison.", needed=False)
    yield from each(comparison.get("reserved") or {}, _RESERVED, "comparison.reserved.", needed=False)
    if comparison.get("recovery"):
        yield from each(comparison["recovery"], _RECOVERY, "comparison.recovery.")
        yield from each(comparison["recovery"], _LEVELS, "comparison.recovery.", needed=False)
        if len(_LEVELS.keys() & comparison["recovery"].keys()) != 1:
            yield "comparison.recovery is to have either level or share"
    compared = list(chain(*comparison["baselines"].values()))
    for name, target in (comparison.get("targets") or {}).items():
        kinds = {kind: _list_of(TEXT) if kind == "best_of" else FINITE for kind in target}
        yield from each(target, kinds, f"comparison.targets.{name}.")
        for kind in kinds.keys() - TARGETS:
            yield f"comparison.targets.{name} has no {kind}; {suggest(kind, TARGETS)}"
        if not kinds.keys() - {"best_of", "streams"}:
            known = ", ".join(sorted(TARGETS - {"best_of", "streams"}))
            yield f"comparison.targets.{name} sets no target; it needs one of {known}"
        if "recovery" in kinds and not comparison.get("recovery"):
            yield f"comparison.targets.{name}.recovery needs comparison.recovery, with changes, last and level or share"
        for row in target.get("best_of", []):
            if row not in compared:
                yield f"comparison.targets.{name}.best_of names {row!r}, which is none of the baselines' rows"
    drawn = comparison.get("figure") or {"columns": []}
    yield from each(drawn, {"columns": _list_of(TEXT)}, "comparison.figure.")
    for name in drawn["columns"]:
        if name not in columns:
            yield f"comparison.figure names {name!r}, which is none of its columns"
    for name in [comparison["method"], *compared]:
        if name not in rows:
            yield f"comparison names {name!r}, which is none of its rows"
