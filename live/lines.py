"""Lines of a file that grows, or of a pipe, with the position up to which they were read."""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from filtune.lightning_modules import signals

LONGEST = 1 << 24
"""Most bytes of a line; of a longer one nothing is kept."""

POLL = 0.2
"""Seconds between two looks at a file that is followed."""

BEGINNING = 4096
"""Bytes by which the file of before is recognised."""


class Lines:
    """The lines of an input, from where they were left.

    Args:
        source: A file, or ``-`` for standard input.
        follow: Whether to wait for more at the end of the file.
        state: What :meth:`state` returned; None to begin.
        skip_read: Whether standard input begins again from its first line.

    Attributes:
        count: Lines read, also before this process.
        offset: Bytes of these lines.

    Raises:
        ValueError: If the file is not there, or is another one than before.
    """

    def __init__(self, source: str, follow: bool, state: dict[str, Any] | None = None, skip_read: bool = False) -> None:
        self.source, self.follow = source, follow
        self.is_pipe = source == "-"
        if self.is_pipe and follow:
            raise ValueError("--follow: standard input is read to its end anyway; name a file by --input")
        if skip_read and not self.is_pipe:
            raise ValueError("--skip_read: a file goes on where it was left anyway; leave it out")
        if not self.is_pipe and not os.path.isfile(source):
            raise ValueError(f"--input: there is no file {source!r}; name one of JSON lines, or - for standard input")
        self.file: BinaryIO = sys.stdin.buffer if self.is_pipe else open(source, "rb")  # noqa: SIM115
        self.count = self.offset = 0
        if state:
            self._restore(state, skip_read)

    def __iter__(self) -> Iterator[bytes | None]:
        """Yield the lines without their ends; None for one that is longer than :data:`LONGEST`.

        A signal stops the wait for a line, but not what is done with one.
        """
        while True:
            signals.defer(False)
            if signals.pending():
                raise signals.Stopped(signals.pending())
            found = self._next()
            signals.defer(True)
            if found is None:
                return
            line, size = found
            self.count, self.offset = self.count + 1, self.offset + size
            yield line

    def state(self) -> dict[str, Any]:
        """Return the position, and by what the file is recognised."""
        return {"count": self.count, "offset": self.offset, "beginning": self._beginning(self.offset)}

    def close(self) -> None:
        """Close the file."""
        if not self.is_pipe:
            self.file.close()

    def _next(self) -> tuple[bytes | None, int] | None:
        """Return the next complete line and its size with its end; None where there is none any more."""
        line, size = bytearray(), 0
        while True:
            piece = self.file.readline(LONGEST)
            size += len(piece)
            if size <= LONGEST:
                line += piece
            if piece.endswith(b"\n"):
                return bytes(line) if size <= LONGEST else None, size
            if piece:
                continue  # a longer line, or one of which the end is not written yet
            if not self.follow:
                return (bytes(line) if size <= LONGEST else None, size) if size else None
            self._check_length(size)
            time.sleep(POLL)

    def _check_length(self, further: int) -> None:
        """Check that the file has not become shorter than what was read of it.

        Raises:
            ValueError: If it has, as where it was replaced.
        """
        if os.fstat(self.file.fileno()).st_size < self.offset + further:
            raise ValueError(f"--input: {self.source} has become shorter than what was read of it; append to it only")

    def _restore(self, state: dict[str, Any], skip_read: bool) -> None:
        self.count, self.offset = state["count"], state["offset"]
        if self.is_pipe:
            for _ in range(self.count if skip_read else 0):
                self._next()
            return
        size = os.fstat(self.file.fileno()).st_size
        if size < self.offset or self._beginning(self.offset) != state["beginning"]:
            raise ValueError(
                f"--input: {self.source} is not the file that the state has read {self.offset} bytes of; name that "
                "one, or another --state"
            )
        self.file.seek(self.offset)

    def _beginning(self, size: int) -> int:
        """Return the checksum of the first bytes of the file; 0 of a pipe."""
        if self.is_pipe:
            return 0
        return zlib.crc32(os.pread(self.file.fileno(), min(size, BEGINNING), 0))
