"""Dialects of delimited text: how the fields of a record are separated and quoted."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

_ENDS = {"\n": ("\r\n", "\n"), "\r": ("\r",)}


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
    r"""Separation and quoting of the fields of a record.

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
    def is_plain(self) -> bool:
        """True if quotes are characters like any other."""
        return self.quoting == "none"

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


def line_end(start: str) -> str:
    """Return what ends the first line that is not within quotes."""
    quoted = False
    for place, character in enumerate(start):
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "\r\n":
            return "\r" if character == "\r" and start[place + 1 : place + 2] != "\n" else "\n"
    return "\n"


def count_fields(start: str, delimiter: str, newline: str) -> int:
    """Return how many fields the first record has with this delimiter."""
    lines = (f"{line}{newline}" for line in start.split(newline))
    try:
        return len(next(Dialect(delimiter, "doubled", newline).records(lines)).cells)
    except BadLine:
        return start.split(newline, 1)[0].count(delimiter) + 1


def looks_like_rows(text: str, dialect: Dialect) -> bool:
    """Return whether the lines of a quoted field look like rows of a file without quoting.

    In a text, a comma or a semicolon is followed by a blank or by the end of the line; in a row, by the next cell. And
    a file that doubles a quote has quoted fields. Other delimiters are none of a text.
    """
    if dialect.delimiter not in ",;":
        return True
    cells = [cell for line in text.splitlines() for cell in line.split(dialect.delimiter)]
    return '""' not in text and all(cell and cell == cell.strip() for cell in cells)


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
def long_fields() -> Iterator[None]:
    """Let fields be of any length meanwhile; Python's csv module allows 131,072 characters."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
