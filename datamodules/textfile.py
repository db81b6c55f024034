"""Text files as they come: compressed or not, with or without a byte order mark, in a named encoding."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

from .beginnings import known_beginning
from .samples import DataError

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Endings of compressed files, and how they are opened."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class TextFile:
    """A text file and its encoding.

    Args:
        path: The file.
        encoding: Name of the encoding.
        mark: The byte order mark that the file begins with; empty where there is none.
    """

    path: Path
    encoding: str
    mark: bytes = b""

    @classmethod
    def find(cls, path: Path, encoding: str | None = None) -> TextFile:
        """Return a file with the encoding of its byte order mark, else the one given, else UTF-8.

        Raises:
            DataError: If the file cannot be read, is no text, or there is no such encoding.
        """
        with _reported(path), open_binary(path) as file:
            start = file.read(64)
        if kind := known_beginning(start):
            raise DataError(f"--data.source: {path} is {kind}")
        for mark, found in _MARKS:
            if start.startswith(mark):
                return cls(path, found, mark)
        try:
            "".encode(encoding or "utf-8")
            return cls(path, codecs.lookup(encoding or "utf-8").name)
        except LookupError:
            raise DataError(
                f"--data.encoding: there is no encoding {encoding!r}; such are utf-8, utf-16-le, latin-1, cp1252"
            ) from None

    @contextmanager
    def open(self, newline: str = "\n") -> Iterator[TextIO]:
        r"""Open the file behind its mark; its lines end in ``newline`` alone, which they keep.

        Raises:
            DataError: If it is damaged, or its bytes are not of the encoding, naming the line.
        """
        with _reported(self.path), open_binary(self.path) as file:
            file.read(len(self.mark))
            try:
                yield io.TextIOWrapper(file, encoding=self.encoding, newline=newline)
            except UnicodeDecodeError as error:
                raise self._undecodable(error) from None

    def _undecodable(self, error: UnicodeDecodeError) -> DataError:
        """Return the error that names the first line whose bytes are not of the encoding."""
        place = str(self.path)
        if self.encoding in ("utf-8", "ascii"):  # where a line feed is one byte
            with open_binary(self.path) as file:
                for number, line in enumerate(file, 1):
                    try:
                        line.decode(self.encoding)
                    except UnicodeDecodeError as exact:
                        place, error = f"{place}, line {number}", exact
                        break
        byte = error.object[error.start]
        return DataError(
            f"--data.encoding: {place}: the byte {byte:#04x} is not {self.encoding}; name the encoding of the file, "
            "such as --data.encoding latin-1 or cp1252, or save it as UTF-8"
        )


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading, uncompressed on the way."""
    return COMPRESSED.get(path.suffix.lower(), open)(path, "rb")


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"--data.source: {path} is damaged: {error}") from error
    except OSError as error:
        raise DataError(f"--data.source: {path} cannot be read: {error.strerror or error}") from error
