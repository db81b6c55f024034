"""A table or figure of a paper, or a study of our own, as data: its cells and the published results."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filtune.lightning_modules.yaml_loader import load_yaml

from .composition import CONFIGS
from .suggestions import suggest
from .table_fields import table_fault

PAPERS = CONFIGS / "papers"
"""One file a table or figure, one folder a paper."""

STUDIES = CONFIGS / "studies"
"""One file a study: a table of our own."""


@dataclass(frozen=True)
class Column:
    """A task and the model that learns it.

    Columns that differ in their metric alone show the same runs.

    Attributes:
        name: Short name, for cells.
        title: As the table has it.
        task: Name of a file of configs/task.
        backbone: Name of a file of configs/backbone; empty for a measurement that has a model of its own.
        set: Options of the column's cells, by dotted key.
        metric: The figure shown, where it is not the table's.
        chosen_by: The metric by which the best point of a grid is chosen, where it is not the one shown.
    """

    name: str
    title: str
    task: str
    backbone: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    metric: str | None = None
    chosen_by: str | None = None


@dataclass(frozen=True)
class Row:
    """A method of a table.

    Attributes:
        name: Short name, for cells.
        title: As the table has it.
        optimizer: Name of a file of configs/optimizer; empty for a measurement without one.
        set: Options of the row's cells, by dotted key.
        by_column: Options that differ from column to column: by dotted key, one value a column.
        grid: Options that are tried out, by dotted key; the best counts.
        columns: The columns that the row has; none for all.
        rate: ``none`` if the method needs no learning rate, ``tuned``, or ``published`` for a published or default one;
            by default ``tuned`` with a grid, ``none`` without.
        published: Mean and deviation of each column, exactly as in the paper; none in a row of ours.
    """

    name: str
    title: str
    optimizer: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    by_column: dict[str, list[Any]] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    columns: list[str] | None = None
    rate: str | None = None
    published: list[Any] | None = None


@dataclass(frozen=True)
class Table:
    """A table, or a figure over the cells of a table.

    Attributes:
        name: ``paper.table``, such as ``loko.table2``.
        title: What it shows.
        columns: Tasks and models.
        rows: Methods.
        metric: The figure of a record that it shows.
        seeds: Seeds of every cell.
        set: Options of all cells, by dotted key.
        raw: The content of the file, for what draws it.
        tuning_seeds: The seeds with which the points of a grid are compared; the best goes on with the others. None
            for all seeds at all points.
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[Row]
    metric: str
    seeds: list[int]
    set: dict[str, Any]
    raw: dict[str, Any]
    tuning_seeds: list[int] = field(default_factory=list)


def table_names() -> list[str]:
    """Return the names of all tables and figures, as ``paper.table``."""
    return sorted(f"{path.parent.name}.{path.stem}" for path in PAPERS.glob("*/*.yaml"))


def study_names() -> list[str]:
    """Return the names of the studies that ship."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_table(name: str) -> Table:
    """Read the file of a table or figure (``loko.table2``), of a study (``win_stream``), or one named by its path.

    Raises:
        ValueError: If there is no such table, naming near ones, or its file is wrong, naming what is.
    """
    return _load(name, ())


def _load(name: str, above: tuple[Path, ...]) -> Table:
    """Read a table that those above are over."""
    path = _find(name)
    raw = _description(path, above)
    if fault := "" if "of" in raw else table_fault(raw):
        raise ValueError(f"{path}: not the description of a table: {fault}")
    label = path.stem if _is_path(name) else name
    try:
        return _read(label, raw, (*above, path.resolve()))
    except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        raise ValueError(f"{path}: not the description of a table ({type(error).__name__}: {error})") from error


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _find(name: str) -> Path:
    """Return the file of a table or study, by its name or path.

    Raises:
        ValueError: If there is none, naming near ones.
    """
    path = Path(name) if _is_path(name) else PAPERS / f"{name.replace('.', '/')}.yaml"
    if not _is_path(name) and not os.path.isfile(path):  # whatever the name is
        path = STUDIES / f"{name}.yaml"
    if "\0" in name or len(path.name) > 200 or not path.is_file():
        raise ValueError(f"no table or figure {name!r}; {suggest(name, [*table_names(), *study_names()])}")
    return path


def _description(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return the content of a table's file; what it ``extends`` has the fields that it does not have itself.

    Raises:
        ValueError: If a file is no mapping, extends itself or is over itself, or what it extends is not there.
    """
    raw = _todays_names(load_yaml(path, str(path))[1])
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: not the description of a table, but {'empty' if raw is None else 'no mapping'}")
    base = raw.pop("extends", None)
    if path.resolve() in above:
        raise ValueError(f"{path}: not the description of a table: it is over itself, or extends itself")
    if base is None:
        return raw
    if not isinstance(base, str) or not base:
        raise ValueError(f"{path}: extends is {base!r}, not the name of a table or study, or the path of a file")
    try:
        found = _find(str(path.parent / base) if _is_path(base) else base)
    except ValueError as error:
        raise ValueError(f"{path}: extends: {error}") from None
    return {**_description(found, (*above, path.resolve())), **raw}


def _todays_names(raw: Any) -> Any:
    """Return a study of earlier releases under today's names: ``comparison`` was called ``contest``."""
    if not isinstance(raw, dict) or not isinstance(raw.get("contest"), dict):
        return raw
    names = {"rivals": "baselines", "goals": "targets"}
    comparison = {names.get(key, key): value for key, value in raw["contest"].items()}
    return {key: value for key, value in raw.items() if key != "contest"} | {"comparison": comparison}


def _read(name: str, raw: dict[str, Any], above: tuple[Path, ...]) -> Table:
    if "of" in raw:
        return _over(name, raw, above)
    columns, rows = [Column(**c) for c in raw["columns"]], [Row(**r) for r in raw["rows"]]
    _check(name, columns, rows)
    tuning = raw.get("tuning_seeds") or []
    if not set(tuning) <= set(raw["seeds"]):
        raise ValueError(f"{name}: tuning_seeds {tuning} are to be some of its seeds {raw['seeds']}")
    return Table(name, raw["title"], columns, rows, raw["metric"], raw["seeds"], raw.get("set") or {}, raw, tuning)


def _check(name: str, columns: list[Column], rows: list[Row]) -> None:
    known = [column.name for column in columns]
    for row in rows:
        lists = {**row.by_column, **({"published": row.published} if row.published else {})}
        for key, values in lists.items():
            if len(values) != len(columns):
                raise ValueError(f"{name}, row {row.name}: {key} has {len(values)} values for {len(columns)} columns")
        for column in row.columns or []:
            if column not in known:
                raise ValueError(f"{name}, row {row.name}: no column {column!r}; {suggest(column, known)}")


def _over(name: str, raw: dict[str, Any], above: tuple[Path, ...]) -> Table:
    """Return a table over the cells of others, or some of them, with what it publishes itself."""
    sources = [_load(source, above) for source in ([raw["of"]] if isinstance(raw["of"], str) else raw["of"])]
    columns = [
        replace(column, set={**table.set, **column.set}, metric=column.metric or table.metric)
        for table in sources
        for column in table.columns
    ]
    order = raw.get("columns", [column.name for column in columns])
    names = raw.get("rows", [row.name for row in sources[0].rows])
    rows = [_join(row, sources, order, (raw.get("published") or {}).get(row)) for row in names]
    found = {column.name: column for column in columns}
    chosen = [replace(found[column], metric=raw.get("metric", found[column].metric)) for column in order]
    _check(name, chosen, rows)
    return Table(name, raw["title"], chosen, rows, raw.get("metric", sources[0].metric), sources[0].seeds, {}, raw)


def _join(name: str, sources: list[Table], order: list[str], published: list[Any] | None) -> Row:
    """Return a row of several tables, over some of their columns."""
    parts = {
        column.name: (row, i)
        for table in sources
        for i, column in enumerate(table.columns)
        for row in table.rows
        if row.name == name and (row.columns is None or column.name in row.columns)
    }
    first = next(iter(parts.values()))[0]
    options = {key for row, _ in parts.values() for key in (*row.by_column, *row.set)}
    values = {
        key: [_option(*parts[column], key) if column in parts else None for column in order] for key in sorted(options)
    }
    printed = [parts[c][0].published[parts[c][1]] if c in parts and parts[c][0].published else None for c in order]
    return replace(
        first,
        set={},
        by_column=values,
        columns=[column for column in order if column in parts],
        published=published or (printed if any(printed) else None),
    )


def _option(row: Row, place: int, key: str) -> Any:
    return row.by_column[key][place] if key in row.by_column else row.set.get(key)
