"""Lines of a file that grows, or of a pipe: in, with the position up to which they were read, and out."""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from ..plain import json_text
from .base import AnswerOutput, RawSample, SampleSource, SourceOptions

LONGEST = 1 << 24
"""Most bytes of a line; of a longer one nothing is kept."""

POLL = 0.2
"""Seconds between two looks at a file that is followed."""

BEGINNING = 4096
"""Bytes by which the file of before is recognised."""


class Lines(SampleSource):
    """The lines of a file, or of standard input, whose address is ``-``; the position is in bytes.

    Args:
        address: A file, or ``-``.
        options: The options.
        state: What :meth:`state` returned; None to begin.

    Raises:
        ValueError: If there is no such file, it is another one than before, or an option does not apply.
    """

    schemes: ClassVar = ("",)

    def __init__(self, address: str, options: SourceOptions, state: Mapping[str, Any] | None = None) -> None:
        super().__init__(address, options, state)
        self.is_pipe = address == "-"
        if self.is_pipe and options.follow:
            raise ValueError("--follow: standard input is read to its end anyway; name a file by --input")
        if options.skip_read and not self.is_pipe:
            raise ValueError("--skip_read: a file goes on where it was left anyway; leave it out")
        if not self.is_pipe and not os.path.isfile(address):
            raise ValueError(f"--input: there is no file {address!r}; name one of JSON lines, or - for standard input")
        self.file: BinaryIO = sys.stdin.buffer if self.is_pipe else open(address, "rb")  # noqa: SIM115
        self.position = 0
        if state:
            self._restore(state)

    def take(self) -> tuple[RawSample, int] | None:
        """Return the next line; None for one that is longer than :data:`LONGEST`."""
        found = self._next()
        return found and (found[0], self.position + found[1])

    def state(self) -> dict[str, Any]:
        """Return the position, and by what the file is recognised."""
        return {"count": self.count, "offset": self.position, "beginning": self._beginning(self.position)}

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
            if not self.options.follow:
                return (bytes(line) if size <= LONGEST else None, size) if size else None
            self._check_length(size)
            time.sleep(POLL)

    def _check_length(self, further: int) -> None:
        """Check that the file has not become shorter than what was read of it.

        Raises:
            ValueError: If it has, as where it was replaced.
        """
        if os.fstat(self.file.fileno()).st_size < self.position + further:
            raise ValueError(f"--input: {self.name} has become shorter than what was read of it; append to it only")

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.position = state["offset"]
        if self.is_pipe:
            for _ in range(self.count if self.options.skip_read else 0):
                self._next()
            return
        size = os.fstat(self.file.fileno()).st_size
        if size < self.position or self._beginning(self.position) != state["beginning"]:
            raise ValueError(
                f"--input: {self.name} is not the file that the state has read {self.position} bytes of; name that "
                "one, or another --state"
            )
        self.file.seek(self.position)

    def _beginning(self, size: int) -> int:
        """Return the checksum of the first bytes of the file; 0 of a pipe."""
        if self.is_pipe:
            return 0
        return zlib.crc32(os.pread(self.file.fileno(), min(size, BEGINNING), 0))


class FileOutput(AnswerOutput):
    """The lines that are written; of a file, those after the last saved state are written again when it goes on.

    Args:
        address: A file, or ``-`` for standard output.
        state: Bytes of the file that belong to the state; None where there is no state.

    Raises:
        ValueError: If the file has content of something else, or has lost lines.
    """

    schemes: ClassVar = ("",)

    def __init__(self, address: str, state: Any) -> None:
        if isinstance(state, dict):
            raise ValueError(f"--output: the state has written to the stream {state['stream']!r}, not to {address}")
        self.is_pipe = address == "-"
        if self.is_pipe:
            self.file: BinaryIO = sys.stdout.buffer
            return
        path, size = Path(address), state
        present = path.stat().st_size if path.exists() else 0
        if size is None and present:
            raise ValueError(f"--output: {path} has content that is not of this state; name a new file")
        if size is not None and present < size:
            raise ValueError(f"--output: {path} has {present} bytes, the state has written {size}; put it back")
        self.file = open(path, "ab")  # noqa: SIM115
        self.file.truncate(size or 0)

    def write(self, row: Mapping[str, Any], is_ready: bool = False) -> None:
        """Write a line, at once; half of a surrogate pair is written as JSON escapes it."""
        self.file.write(json_text(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        self.file.flush()

    def state(self) -> int:
        """Return the bytes that are on the disk now; 0 of a pipe."""
        if self.is_pipe:
            return 0
        os.fsync(self.file.fileno())
        return os.fstat(self.file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        if not self.is_pipe:
            self.file.close()
