r"""Delimited text files, such as .csv and .tsv: which dialect one is in, its records, and a table of its cells.

A quote at the beginning of a field has two meanings. In CSV (RFC 4180) the field ends at the next quote that is not
doubled, and may span lines; in files without quoting the quote is a character like any other. A file is read in the
dialect that gives every record as many fields as the header. Where two dialects do so, and disagree on where the
records begin, nothing in the file says which one it is in: it is refused, with the line of the first difference.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from .samples import DataError
from .textfile import TextFile

Quoting = Literal["auto", "doubled", "backslash", "none"]
QUOTINGS = ("auto", "doubled", "backslash", "none")
DELIMITERS = {".csv": (",", ";", "\t", "|"), ".tsv": ("\t",)}
"""Delimiters that a file may have, by its ending; the usual one first."""

_ENDS = {"\n": ("\r\n", "\n"), "\r": ("\r",)}
_SAMPLE = 1 << 16
_CHUNK = 1 << 14


class Record(NamedTuple):
    """One record: the number of its first line, from 1, its text with the end of the line, and its cells."""

    line: int
    text: str
    cells: list[str]


class BadLine(Exception):
    """A record that the dialect does not allow, with the number of the line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class Dialect:
    r"""How the fields of a record are separated and quoted.

    Args:
        delimiter: The character between fields.
        quoting: ``doubled``, quotes around a field and twice within it; ``backslash``, a backslash before what would
            end a field; ``none``, quotes are characters like any other.
        newline: What ends a line: a line feed, with or without a carriage return before it, or a carriage return.
    """

    delimiter: str
    quoting: str
    newline: str = "\n"

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of Python's ``csv.reader`` and ``csv.writer``."""
        kinds: dict[str, dict[str, Any]] = {
            "doubled": {"doublequote": True},
            "backslash": {"doublequote": False, "escapechar": "\\"},
            "none": {"quoting": csv.QUOTE_NONE, "quotechar": None},
        }
        return {"delimiter": self.delimiter, "strict": True, **kinds[self.quoting]}

    def records(self, file: Iterable[str]) -> Iterator[Record]:
        """Yield the records of the lines of a file from its beginning; empty lines are none.

        Raises:
            BadLine: Where the text is not of this dialect.
        """
        lines = _Lines(iter(file))
        reader = csv.reader(lines, **self.options)
        header: Record | None = None
        while True:
            lines.text, first = "", lines.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise BadLine(first, _reason(str(error))) from None
            if self._breaks_outside(lines.text, cells):
                raise BadLine(first, _reason("new-line character"))
            record = Record(first, lines.text, cells)
            # of a single column, an empty line that ends otherwise than the header may be a row: "\r", unquoted
            if not cells and header and len(header.cells) == 1 and self._end(record.text) != self._end(header.text):
                raise BadLine(first, _reason("new-line character"))
            if cells:
                header = header or record
                yield record

    def _end(self, text: str) -> str:
        return next((end for end in _ENDS[self.newline] if text.endswith(end)), "")

    def _breaks_outside(self, text: str, cells: list[str]) -> bool:
        """Return whether a record has a carriage return or a line feed that neither ends it nor is in a cell."""
        body = text[: len(text) - len(self._end(text))]
        # a backslash before a carriage return may be one of the text, in a file that is not quoted as it should be
        other = "\r" if self.newline == "\n" else "\n"
        if self.quoting == "backslash" and f"\\{other}" in body:
            return True
        return any(body.count(mark) != sum(cell.count(mark) for cell in cells) for mark in "\r\n" if mark in body)

    def write(self, cells: list[str]) -> str:
        """Return a record of the cells, without an end of the line.

        Raises:
            ValueError: If a cell cannot be written in this dialect.
        """
        buffer = io.StringIO()
        try:
            csv.writer(buffer, lineterminator="", **self.options).writerow(cells)
        except csv.Error as error:
            raise ValueError(f"a cell of {cells} cannot be written without quotes") from error
        return buffer.getvalue()


class _Lines:
    """The lines of a file, counted, with the text of those since the last reset."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file, self.number, self.text = file, 0, ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.number += 1
        self.text += line
        return line


@dataclass
class _Reading:
    """A file read in one dialect: the first line of every record, and what other dialects might read otherwise."""

    dialect: Dialect
    header: list[str]
    batches: list[list[pa.Array]] = field(default_factory=list)
    lines: array = field(default_factory=lambda: array("q"))
    spans_lines: bool = False
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
        with _long_fields():
            reading = self._choose(quoting)
        self.dialect, self.header, self.lines = reading.dialect, reading.header, reading.lines
        self._batches = reading.batches

    @property
    def path(self) -> Path:
        """The file."""
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
        with _long_fields(), self.file.open(self.dialect.newline) as file:
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
            if readings and not (quoted_only and _is_plain(readings[0].dialect)):
                self._agree(readings)
                return readings[0]
            errors += [error for dialect, error in failed if not (quoted_only and _is_plain(dialect))]
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
            if len(readings) == 1 and not errors and not (reading.spans_lines or reading.has_escapes):
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
                reading.spans_lines |= dialect.newline in text[:-1]
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
            # of a single column, every line is a record without quoting, and that says nothing
            if other.lines == first.lines or (len(first.header) == 1 and _is_plain(other.dialect)):
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
        newline = _newline(start)
        known = DELIMITERS[self._suffix]
        found = [delimiter for delimiter in known if _header_fields(start, delimiter, newline) > 1]
        order = ("doubled", "backslash", "none") if self._suffix == ".csv" else ("doubled", "none", "backslash")
        kinds = order if quoting == "auto" else (quoting,)
        self._check_header(start)
        return [Dialect(delimiter, kind, newline) for delimiter in found or known[:1] for kind in kinds]

    def _check_header(self, start: str) -> None:
        if "\0" in start.splitlines()[0]:
            raise DataError(
                f"--data.encoding: {self.path} has zero bytes in its header and is not {self.file.encoding}; it may be "
                "--data.encoding utf-16-le"
            )

    @cached_property
    def _has_backslash(self) -> bool:
        with self.file.open() as file:
            return any("\\" in line for line in file)


def _is_plain(dialect: Dialect) -> bool:
    return dialect.quoting == "none"


def _columns(rows: list[list[str]]) -> list[pa.Array]:
    return [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]


def _newline(start: str) -> str:
    """Return what ends the first line that is not within quotes."""
    quoted = False
    for place, character in enumerate(start):
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "\r\n":
            return "\r" if character == "\r" and start[place + 1 : place + 2] != "\n" else "\n"
    return "\n"


def _header_fields(start: str, delimiter: str, newline: str) -> int:
    """Return how many fields the first record has with this delimiter."""
    lines = (f"{line}{newline}" for line in start.split(newline))
    try:
        return len(next(Dialect(delimiter, "doubled", newline).records(lines)).cells)
    except BadLine:
        return start.split(newline, 1)[0].count(delimiter) + 1


def _reason(error: str) -> str:
    """Return what a message of Python's csv module means."""
    if "unexpected end" in error:
        return "a quote opens a field here that no quote closes"
    if "expected after" in error:
        return "a quoted field goes on behind its closing quote"
    if "new-line character" in error:
        return "a field without quotes has a carriage return or a line feed in it"
    return error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let fields be of any length meanwhile; Python's csv module allows 131,072 characters."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
