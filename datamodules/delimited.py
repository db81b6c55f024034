r"""Delimited text files, such as .csv and .tsv: which dialect one is in, its records, and a table of its cells.

A quote at the beginning of a field has two meanings. In CSV (RFC 4180) the field ends at the next quote that is not
doubled, and may span lines; in files without quoting the quote is a character like any other. A file is read in the
dialect that gives every record as many fields as the header. Where two dialects do so, and disagree on where the
records begin, nothing in the file says which one it is in: it is refused, with the line of the first difference.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa

from .dialect import BadLine, Dialect, Record, count_fields, line_end, long_fields, looks_like_rows
from .samples import DataError
from .textfile import TextFile

Quoting = Literal["auto", "doubled", "backslash", "none"]
QUOTINGS = ("auto", "doubled", "backslash", "none")
DELIMITERS = {".csv": (",", ";", "\t", "|"), ".tsv": ("\t",)}
"""Delimiters that a file may have, by its ending; the usual one first."""

_SAMPLE = 1 << 16
_CHUNK = 1 << 14


@dataclass
class _Reading:
    """A file read in one dialect.

    Attributes:
        dialect: The dialect.
        header: The cells of the first record.
        batches: Those of the others, by column.
        lines: The first line of every record but the header.
        spans: The text of the records that span lines, which other dialects might read otherwise.
        has_escapes: Whether there is a backslash before a character that it might protect.
    """

    dialect: Dialect
    header: list[str]
    batches: list[list[pa.Array]] = field(default_factory=list)
    lines: array = field(default_factory=lambda: array("q"))
    spans: list[str] = field(default_factory=list)
    has_escapes: bool = False


class DelimitedFile:
    """A delimited text file, read whole.

    Args:
        path: The file.
        encoding: Its encoding, where it has no byte order mark; UTF-8 by default.
        quoting: Its quoting; ``auto`` finds it out.

    Attributes:
        dialect: The dialect it is in.
        header: Names of the columns, as they stand in the file.
        lines: Number of the first line of every row, from 1.

    Raises:
        DataError: If it cannot be read, naming the line.
    """

    def __init__(self, path: Path, encoding: str | None = None, quoting: Quoting = "auto") -> None:
        self.file = TextFile.find(path, encoding)
        suffixes = [suffix.lower() for suffix in path.suffixes]
        self._suffix = next(suffix for suffix in reversed(suffixes) if suffix in DELIMITERS)
        with long_fields():
            reading = self._choose(quoting)
        self.dialect, self.header, self.lines = reading.dialect, reading.header, reading.lines
        self._batches = reading.batches

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.file.path

    @cached_property
    def names(self) -> list[str]:
        """Names of the columns, those that occur twice with the number of the column."""
        counts = {name: self.header.count(name) for name in self.header}
        return [name if counts[name] == 1 else f"{name} (column {i})" for i, name in enumerate(self.header, 1)]

    def table(self) -> pa.Table:
        """Return the cells as strings."""
        columns = zip(*self._batches, strict=True) if self._batches else [[] for _ in self.names]
        chunked = [pa.chunked_array(list(chunks), pa.string()) for chunks in columns]
        return pa.Table.from_arrays(chunked, names=self.names)

    def records(self) -> Iterator[Record]:
        """Yield the header and the rows once more, with their text."""
        with long_fields(), self.file.open(self.dialect.newline) as file:
            yield from self.dialect.records(file)

    def _choose(self, quoting: Quoting) -> _Reading:
        """Return the file read in the dialect it is in."""
        dialects = self._dialects(quoting)
        errors: list[BadLine] = []
        for delimiter in dict.fromkeys(dialect.delimiter for dialect in dialects):
            same = [dialect for dialect in dialects if dialect.delimiter == delimiter]
            readings, failed = self._read_all(same)
            # without quoting a comma in a text would be taken for a delimiter: in .csv it does not count by itself
            quoted_only = quoting == "auto" and self._suffix == ".csv"
            if readings and not (quoted_only and readings[0].dialect.is_plain):
                self._agree(readings)
                return readings[0]
            errors += [error for dialect, error in failed if not (quoted_only and dialect.is_plain)]
        worst = max(errors, key=lambda error: error.line)
        raise DataError(
            f"--data.source: {self.path} cannot be read: line {worst.line}: {worst}; correct the line, or set another "
            "--data.quoting"
        )

    def _read_all(self, dialects: list[Dialect]) -> tuple[list[_Reading], list[tuple[Dialect, BadLine]]]:
        """Return the readings in the dialects that fit, and the errors of the others.

        The first stands alone where the others could not differ from it.
        """
        readings: list[_Reading] = []
        errors: list[tuple[Dialect, BadLine]] = []
        for dialect in dialects:
            if dialect.quoting == "backslash" and len(dialects) > 1 and not self._has_backslash:
                continue
            try:
                reading = self._read(dialect)
            except BadLine as error:
                errors.append((dialect, error))
                continue
            readings.append(reading)
            if len(readings) == 1 and not errors and not (reading.spans or reading.has_escapes):
                break
        return readings, errors

    def _read(self, dialect: Dialect) -> _Reading:
        """Read the file in a dialect.

        Raises:
            BadLine: If a record has more or fewer fields than the header, or is not of the dialect.
        """
        escapes = tuple(f"\\{end}" for end in (dialect.delimiter, '"', "\n", "\r"))
        chunk: list[list[str]] = []
        with self.file.open(dialect.newline) as file:
            records = dialect.records(file)
            reading = _Reading(dialect, next(records).cells)
            for line, text, cells in records:
                if len(cells) != len(reading.header):
                    raise BadLine(line, f"{len(cells)} fields, where the header has {len(reading.header)}")
                reading.lines.append(line)
                if dialect.newline in text[:-1]:
                    reading.spans.append(text)
                reading.has_escapes |= "\\" in text and any(escape in text for escape in escapes)
                chunk.append(cells)
                if len(chunk) == _CHUNK:
                    reading.batches.append(_columns(chunk))
                    chunk = []
        if chunk:
            reading.batches.append(_columns(chunk))
        return reading

    def _agree(self, readings: list[_Reading]) -> None:
        """Check that all readings begin their records in the same lines.

        Raises:
            DataError: If not, naming the first line of which that is not so.
        """
        first = readings[0]
        for other in readings[1:]:
            if other.lines == first.lines:
                continue
            # of a single column, every line is a record without quoting, and that says nothing
            if other.dialect.is_plain and (
                len(first.header) == 1 or not any(looks_like_rows(text, first.dialect) for text in first.spans)
            ):
                continue
            both = zip(first.lines, other.lines, strict=False)
            places = (i for i, (one, two) in enumerate(both) if one != two)
            place = next(places, min(len(first.lines), len(other.lines)))
            line = first.lines[place - 1] if place else 2
            raise DataError(
                f"--data.quoting: {self.path}, line {line}: its quotes can be read in two ways: set --data.quoting "
                f"{first.dialect.quoting} for {len(first.lines)} rows, {other.dialect.quoting} for {len(other.lines)}"
            )

    def _dialects(self, quoting: Quoting) -> list[Dialect]:
        """Return the dialects that the file may be in, by its ending and its header, the likelier first."""
        with self.file.open("") as file:
            start = file.read(_SAMPLE)
        if not start.strip():
            raise DataError(f"--data.source: {self.path} cannot be read: it is empty; a header and rows are needed")
        newline = line_end(start)
        known = DELIMITERS[self._suffix]
        found = [delimiter for delimiter in known if count_fields(start, delimiter, newline) > 1]
        order = ("doubled", "backslash", "none") if self._suffix == ".csv" else ("doubled", "none", "backslash")
        kinds = order if quoting == "auto" else (quoting,)
        self._check_header(start)
        return [Dialect(delimiter, kind, newline) for delimiter in found or known[:1] for kind in kinds]

    def _check_header(self, start: str) -> None:
        if start[:4].lower() == "sep=":
            raise DataError(
                f"--data.source: {self.path} cannot be read: line 1 is not the header but a note of Excel's, "
                f"{start.splitlines()[0]!r}; delete the line"
            )
        if "\0" in start.splitlines()[0]:
            raise DataError(
                f"--data.encoding: {self.path} has zero bytes in its header and is not {self.file.encoding}; it may be "
                "--data.encoding utf-16-le"
            )

    @cached_property
    def _has_backslash(self) -> bool:
        with self.file.open() as file:
            return any("\\" in line for line in file)


def _columns(rows: list[list[str]]) -> list[pa.Array]:
    return [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
