"""Tables of predictions: the source's columns as they were, and the predictions behind them.

Where a text file is written in the format it was read from, its records are copied as they stand, byte for byte, in
its own encoding and dialect; the predictions are appended to each.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filtune.datamodules.delimited import DelimitedFile
from filtune.datamodules.json_file import JsonFile
from filtune.datamodules.source import file_ending

from .inputs import Rows
from .spreadsheet import escape_formula

_LINES = (".jsonl", ".ndjson")


def check_names(rows: Rows, predicted: dict[str, list[Any]]) -> None:
    """Check that no column of the source has the name of one of the predictions.

    Raises:
        ValueError: If one has.
    """
    for name in predicted:
        if name in rows.table.column_names:
            raise ValueError(f"--input: there is a column {name!r} already, which would be overwritten; rename it")


def write_table(
    rows: Rows, predicted: dict[str, list[Any]], path: Path, ending: str, escape_formulas: bool = False
) -> None:
    """Write the rows that were predicted, with their predictions.

    Args:
        rows: The source.
        predicted: Columns of predictions, by name.
        path: The file to write.
        ending: Its format.
        escape_formulas: Put an apostrophe before cells of a .csv or .tsv that a spreadsheet would run; all cells are
            then written again.

    Raises:
        ValueError: If a prediction cannot be written in the dialect or the encoding of the source.
    """
    file = rows.file
    change = escape_formula if escape_formulas else str
    if isinstance(file, DelimitedFile) and file_ending(file.path) == ending and not escape_formulas:
        _append_cells(file, rows.kept, predicted, path)
    elif isinstance(file, JsonFile) and ending == ".jsonl" and file_ending(file.path) in _LINES:
        _write_lines(path, _append_keys(file, rows.kept, predicted))
    elif isinstance(file, JsonFile) and ending in (".csv", ".tsv"):
        names = rows.table.column_names
        _write_cells([*names, *predicted], _objects(file, rows.kept, predicted), path, ending, change)
    else:
        table = rows.columns()
        for name, values in predicted.items():
            table = table.append_column(name, pa.array(values))
        if ending == ".parquet":
            pq.write_table(table, path)
        elif ending == ".jsonl":
            _write_lines(path, (json.dumps(_finite(row), ensure_ascii=False, default=str) for row in _records(table)))
        else:
            _write_cells(table.column_names, _records(table), path, ending, change)


def _append_cells(file: DelimitedFile, kept: Sequence[int], predicted: dict[str, list[Any]], path: Path) -> None:
    records, encoding = file.records(), file.file.encoding
    header = next(records)
    end = header.text[len(header.text.rstrip("\r\n")) :] or "\n"
    try:
        with path.open("w", encoding=encoding, newline="") as output:
            if file.file.mark:
                output.write("\ufeff")
            output.write(_joined(file, header.text, list(predicted)) + end)
            values = zip(*predicted.values(), strict=True)
            for text, found in zip(_chosen((record.text for record in records), kept), values, strict=True):
                output.write(_joined(file, text, [cell(value) for value in found]) + end)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"--output: {error.object[error.start]!r} is not in {encoding}, the encoding of {file.path}; name a "
            ".jsonl or .parquet file"
        ) from error


def _joined(file: DelimitedFile, text: str, cells: list[str]) -> str:
    """Return a record with further cells, without its end of the line."""
    for end in ("\r\n", "\n", "\r"):
        if text.endswith(end):
            text = text[: -len(end)]
            break
    try:
        return f"{text}{file.dialect.delimiter}{file.dialect.write(cells)}"
    except ValueError as error:
        raise ValueError(f"--output: {error} as {file.path} has none; name a .jsonl or .parquet file") from error


def _append_keys(file: JsonFile, kept: Sequence[int], predicted: dict[str, list[Any]]) -> Iterator[str]:
    """Yield the text of every object with further keys."""
    values = zip(*predicted.values(), strict=True)
    for text, found in zip(_chosen(file.texts(), kept), values, strict=True):
        more = json.dumps(_finite(dict(zip(predicted, found, strict=True))), ensure_ascii=False)
        start = text[:-1].rstrip()
        yield f"{start}{'' if start.endswith('{') else ', '}{more[1:]}"


def _chosen(texts: Iterator[str], kept: Sequence[int]) -> Iterator[str]:
    wanted = {int(row) for row in kept}
    return (text for row, text in enumerate(texts) if row in wanted)


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as output:
        output.writelines(f"{line}\n" for line in lines)


def _objects(file: JsonFile, kept: Sequence[int], predicted: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the objects with further keys; their numbers are those of the file, which a table may have rounded."""
    values = zip(*predicted.values(), strict=True)
    for text, found in zip(_chosen(file.texts(), kept), values, strict=True):
        yield {**json.loads(text), **dict(zip(predicted, found, strict=True))}


def _write_cells(
    names: Sequence[str], records: Iterable[dict[str, Any]], path: Path, ending: str, change: Callable[[str], str]
) -> None:
    with path.open("w", encoding="utf-8", newline="") as output:
        writer = csv.writer(output, delimiter="," if ending == ".csv" else "\t", lineterminator="\n")
        writer.writerow(map(change, names))
        writer.writerows([change(cell(record.get(name))) for name in names] for record in records)


def _records(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def cell(value: Any) -> str:
    """Return the text of a value in a delimited file: nothing where it is missing, JSON where it is nested."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (dict, list)) else str(value)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return the values with null for what JSON has no number for."""
    bad = {name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return {name: None if name in bad else value for name, value in row.items()}
