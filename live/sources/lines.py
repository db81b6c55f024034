"""Lines of a file that grows and is rotated, or of a pipe, with the position up to which they were read."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from ..notices import print_line
from .base import RawSample, SampleSource, SourceOptions

LONGEST = 1 << 24
"""Most bytes of a line; of a longer one nothing is kept."""

POLL = 0.2
"""Seconds between two looks at a file that is followed."""

QUIET = 5
"""Looks without anything new after which a file that was rotated is at its end: its writer may hold it for a while."""

BEGINNING = 4096
"""Bytes by which the file of before is recognised."""


class Lines(SampleSource):
    """The lines of a file, or of a pipe, such as standard input, whose address is ``-``; the position is in bytes.

    A last line without its end is a sample where it is whole JSON; its end, if it comes later, is then passed over.
    Otherwise it stays unread until its end is there.

    A file that is followed may be rotated, which is to be renamed and replaced by a new one of the old name: it is read
    to its end, and then the new one from its start. Also where that happened between two commands, if the old file is
    beside the new one under its name and a number (``in.jsonl.1``).

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
        self.is_pipe = address == "-" or _is_pipe(address)
        shown = "standard input" if address == "-" else f"{address} is a pipe, and"
        if self.is_pipe and options.follow:
            raise ValueError(f"--follow: {shown} is read to its end anyway; name a file by --input")
        if options.skip_read and not self.is_pipe:
            raise ValueError("--skip_read: a file goes on where it was left anyway; leave it out")
        self.file: BinaryIO = sys.stdin.buffer if address == "-" else _open(address)
        self.position = 0
        self._within = False  # the position is within a line, which was read before its end was there
        self._was_rotated = False  # the file has another name by now
        self._quiet = 0
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
        if self.name != "-":
            self.file.close()

    def _next(self) -> tuple[bytes | None, int] | None:
        """Return the next line and its size with its end; None where there is none any more."""
        line, size = bytearray(), 0
        while True:
            piece = self.file.readline(LONGEST)
            size += len(piece)
            if size <= LONGEST:
                line += piece
            found = bytes(line) if size <= LONGEST else None
            if piece.endswith(b"\n"):
                within, self._within = self._within, False
                if within and found is not None and not found.strip():
                    self.position += size  # no more than the end of the line that was read
                    line, size = bytearray(), 0
                    continue
                return found, size
            if piece:
                self._quiet = 0  # a longer line, or one of which the end is not written yet
            elif self._is_replaced():
                if size:
                    return found, size  # nobody will write its end
                self._begin_next()
            elif self.options.follow:
                self._check_length(size)
                time.sleep(POLL)
            else:
                return self._last(found, size) if size else None

    def _last(self, line: bytes | None, size: int) -> tuple[bytes | None, int] | None:
        """Return the last line, which has no end, if it is whole; otherwise leave it for the next start."""
        if line is not None and _is_whole(line):
            self._within = True
            return line, size
        if line is None or line.strip():
            name = "standard input" if self.name == "-" else self.name
            print_line(
                f"--input: the last line of {name} is incomplete and was not read; it is read as a whole, once its end "
                "is there too, by the next start"
            )
        if not self.is_pipe:
            self.file.seek(self.position)
        return None

    def _is_replaced(self) -> bool:
        """Return whether another file has the name by now, and nothing more came to the old one for a while."""
        if self.is_pipe or not (self.options.follow or self._was_rotated):
            return False
        try:
            now = os.stat(self.name)
        except OSError:  # renamed, and there is no new one yet
            return False
        if not stat.S_ISREG(now.st_mode) or os.path.samestat(now, os.fstat(self.file.fileno())):
            return False
        self._quiet += 1
        return self._quiet > QUIET or not self.options.follow

    def _begin_next(self) -> None:
        """Open the file that has the name now, and begin at its start."""
        following = _open(self.name)
        print_line(f"--input: {self.name} is a new file; the old one was read to its end, and it goes on with this")
        self.file.close()
        self.file, self.position = following, 0
        self._within, self._was_rotated, self._quiet = False, False, 0

    def _check_length(self, further: int) -> None:
        """Check that the file has not become shorter than what was read of it.

        Raises:
            ValueError: If it has, as where it was replaced.
        """
        if os.fstat(self.file.fileno()).st_size < self.position + further:
            raise ValueError(
                f"--input: {self.name} has become shorter than what was read of it; append to it only, and rotate it "
                "by renaming it"
            )

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Set the position to that of a state, in the file or in what it was renamed to.

        Raises:
            ValueError: If neither is the file that the state has read.
        """
        self.position = state["offset"]
        if self.is_pipe:
            for _ in range(self.count if self.options.skip_read else 0):
                self._next()
            return
        if not self._is_own(state):
            renamed, self._was_rotated = self._renamed(state), True
            self.file.close()
            self.file = _open(str(renamed))
            print_line(f"--input: {self.name} was renamed to {renamed}; its rest is read first")
        self._within = self.position > 0 and os.pread(self.file.fileno(), 1, self.position - 1) != b"\n"
        self.file.seek(self.position)

    def _is_own(self, state: Mapping[str, Any]) -> bool:
        """Return whether the open file is the one that the state has read."""
        size = os.fstat(self.file.fileno()).st_size
        return size >= self.position and self._beginning(self.position) == state["beginning"]

    def _renamed(self, state: Mapping[str, Any]) -> Path:
        """Return the file that the state has read where it was rotated, once, to the name with a number.

        Raises:
            ValueError: If there is none, or another one was rotated since.
        """
        path, current = Path(self.name), self.file
        pattern = re.compile(re.escape(path.name) + r"[.-]\d[\d.-]*")
        rotated = [each for each in path.parent.iterdir() if pattern.fullmatch(each.name) and each.is_file()]
        rotated.sort(key=lambda each: each.stat().st_mtime_ns)
        for place, each in enumerate(rotated):
            with _open(str(each)) as self.file:
                is_own = self._is_own(state)
            if is_own and place == len(rotated) - 1:
                self.file = current
                return each
            if is_own:
                names = " ".join(map(str, [*rotated[place:], path]))
                raise ValueError(
                    f"--input: {path} was rotated more than once since the state has read it; join what it has not "
                    f"read, and name that: cat {names} > JOINED"
                )
        raise ValueError(
            f"--input: {self.name} is not the file that the state has read {self.position} bytes of; name that "
            "one, or another --state"
        )

    def _beginning(self, size: int) -> int:
        """Return the checksum of the first bytes of the file; 0 of a pipe."""
        if self.is_pipe:
            return 0
        return zlib.crc32(os.pread(self.file.fileno(), min(size, BEGINNING), 0))


def _is_pipe(address: str) -> bool:
    """Return whether a path is that of a named pipe or of a device, which has no positions."""
    try:
        mode = os.stat(address).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _open(address: str) -> BinaryIO:
    """Open a file.

    Raises:
        ValueError: If it is not there, or cannot be read.
    """
    if os.path.isdir(address):
        raise ValueError(
            f"--input: {address!r} is a folder; name a file of JSON lines, or hub:{address} for a data set"
        )
    try:
        return open(address, "rb")
    except FileNotFoundError as error:
        raise ValueError(
            f"--input: there is no file {address!r}; name one of JSON lines, or - for standard input"
        ) from error
    except OSError as error:
        raise ValueError(f"--input: {address!r} cannot be read ({error.strerror}); name a file that can be") from error


def _is_whole(line: bytes) -> bool:
    """Return whether a line without its end is JSON to which nothing can be added; a number may go on."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, bool) or not isinstance(found, int | float)
