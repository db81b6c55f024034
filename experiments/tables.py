"""A table or figure of a paper, or a study of our own, as data: its cells and the published results."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filtune.lightning_modules.yaml_loader import load_yaml

from filtune.suggestions import suggest

from .composition import CONFIGS
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
        sources: The tables whose cells it shows; none where it has cells of its own.
        file: The file of a user's table; None of what ships.
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
    sources: list[Table] = field(default_factory=list)
    file: Path | None = None

    def is_of_another_file(self, file: str | None, root: Path) -> bool:
        """Return whether a manifest of this name is of another table.

        Args:
            file: The file that the manifest names, relative to its root; None for what ships, or if an earlier release
                wrote the manifest. A file that is no longer there was moved.
            root: The root.
        """
        if file is None or self.file is None:
            return file is not None or (self.file is not None and _shipped(self.name) is not None)
        return (root / file).is_file() and not (root / file).samefile(self.file)


def table_names() -> list[str]:
    """Return the names of all tables and figures, as ``paper.table``."""
    return sorted(f"{path.parent.name}.{path.stem}" for path in PAPERS.glob("*/*.yaml"))


def study_names() -> list[str]:
    """Return the names of the studies that ship."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def tables_by_name(tables: Iterable[Table]) -> dict[str, Table]:
    """Return tables by their names.

    Raises:
        ValueError: If two files have one name.
    """
    found: dict[str, Table] = {}
    for table in tables:
        if (other := found.setdefault(table.name, table)).file != table.file:
            files = " and ".join(str(each.file or "what ships with filtune") for each in (other, table))
            raise ValueError(f"{table.name}: {files} have one name; rename a file")
    return found


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
        shipped = _shipped(label)
        file = None if shipped and shipped.samefile(path) else path.resolve()
        return replace(_read(label, raw, (*above, path.resolve())), file=file)
    except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        raise ValueError(f"{path}: not the description of a table ({type(error).__name__}: {error})") from error


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _shipped(name: str) -> Path | None:
    """Return the file of a table or study that ships; None if there is none of this name."""
    places = (PAPERS / f"{name.replace('.', '/')}.yaml", STUDIES / f"{name}.yaml")
    return next((place for place in places if os.path.isfile(place)), None)  # whatever the name is


def _find(name: str) -> Path:
    """Return the file of a table or study, by its name or path.

    Raises:
        ValueError: If there is none, naming near ones.
    """
    path = Path(name) if _is_path(name) else _shipped(name)
    if path is None or not os.path.isfile(path):  # whatever the name is
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
    found = {column.name: (table, column) for table in sources for column in table.columns}
    order = raw.get("columns", [*found])
    names = raw.get("rows", [row.name for row in sources[0].rows])
    columns = [
        replace(column, metric=raw.get("metric", column.metric or table.metric))
        for table, column in (found[column] for column in order)
    ]
    rows = [_join(row, sources, order, (raw.get("published") or {}).get(row)) for row in names]
    _check(name, columns, rows)
    metric = raw.get("metric", sources[0].metric)
    return Table(name, raw["title"], columns, rows, metric, sources[0].seeds, {}, raw, sources=sources)


def _join(name: str, sources: list[Table], order: list[str], published: list[Any] | None) -> Row:
    """Return a row of several tables, over some of their columns; its options are in the cells of these."""
    parts = {
        column.name: (row, row.published[place] if row.published else None)
        for table in sources
        for place, column in enumerate(table.columns)
        for row in table.rows
        if row.name == name and (row.columns is None or column.name in row.columns)
    }
    first, _ = next(iter(parts.values()))
    printed = [parts[column][1] if column in parts else None for column in order]
    published = published or (printed if any(printed) else None)
    columns = [column for column in order if column in parts]
    return replace(first, set={}, by_column={}, columns=columns, published=published)
