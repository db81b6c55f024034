"""JSON files: one object on each line (.jsonl, .ndjson), or a list of objects (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from .samples import DataError
from .textfile import TextFile


class JsonFile:
    """A JSON file, read whole.

    Args:
        path: The file.
        encoding: Its encoding, where it has no byte order mark; UTF-8 by default.

    Attributes:
        table: The objects as a table; a missing key is a missing value.
        lines: Number of the line of each object, from 1; empty for a list.
        mixed: Columns whose values are of several kinds; they are strings in the table.

    Raises:
        DataError: If it cannot be read, naming the line.
    """

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.file = TextFile.find(path, encoding)
        self.lines: list[int] = []
        self.mixed: set[str] = set()
        rows = self._rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        self.table = pa.table({name: self._column(name, [row.get(name) for row in rows]) for name in names})

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.file.path

    def texts(self) -> Iterator[str]:
        """Yield the text of every object once more, without blanks around it."""
        if not self.lines:
            yield from (json.dumps(row, ensure_ascii=False) for row in self._rows())
            return
        with self.file.open() as file:
            yield from (line.strip() for line in file if line.strip())

    def _rows(self) -> list[dict[str, Any]]:
        """Return the objects of a list, else those of the lines."""
        is_list = any(suffix.lower() == ".json" for suffix in self.path.suffixes[-2:])
        rows = self._read_list() if is_list else None
        return self._read_lines() if rows is None else rows

    def _read_list(self) -> list[dict[str, Any]] | None:
        """Return the objects of a list, or a single one; None where there is an object on each line instead."""
        with self.file.open() as file:
            text = file.read()
        try:
            content = json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            if text.lstrip().startswith("["):
                raise self._bad(getattr(error, "lineno", 1), error) from error
            return None
        content = [content] if isinstance(content, dict) else content
        if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
            raise DataError(
                f"--data.source: {self.path} cannot be read: it is no list of objects; write one object for each row"
            )
        if not content:
            raise DataError(f"--data.source: {self.path} cannot be read: it is empty; rows are needed")
        return content

    def _read_lines(self) -> list[dict[str, Any]]:
        rows = []
        self.lines = []
        with self.file.open() as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line, object_pairs_hook=_once)
                except (ValueError, RecursionError) as error:  # of numbers too long and nesting too deep as well
                    raise self._bad(number, error) from error
                if not isinstance(row, dict):
                    raise self._bad(number, f"a {type(row).__name__} is none")
                rows.append(row)
                self.lines.append(number)
        if not rows:
            raise DataError(f"--data.source: {self.path} cannot be read: it is empty; rows are needed")
        return rows

    def _bad(self, line: int, reason: object) -> DataError:
        reason = getattr(reason, "msg", reason)
        return DataError(
            f"--data.source: {self.path} cannot be read: line {line}: no JSON object ({reason}); correct the line"
        )

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        """Return a column with the type of its values, as strings where they are of several types.

        Raises:
            DataError: If a string is no text.
        """
        try:
            try:
                return pa.array(values)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                self.mixed.add(name)
                return pa.array([None if value is None else _as_text(value) for value in values], pa.string())
        except UnicodeEncodeError:
            raise DataError(
                f"--data.source: {self.path}, column {name!r} has half of a surrogate pair, which is no "
                "text; correct it"
            ) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose keys are all different.

    Raises:
        ValueError: If one is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
