"""A write-ahead log: what is to be learned is on the disk before it is acknowledged.

The log is a folder of segments, each a file of lines named after its first operation. A line is one request::

    CRC FIRST COUNT PAYLOAD

with the checksum (CRC-32, eight hexadecimal digits) of the rest of the line, the number of the request's first
operation, the number of its operations, and the operations as JSON. A request is therefore in the log as a whole or
not at all. All requests that wait are written by one ``write`` and one ``fsync`` (group commit).
"""

from __future__ import annotations

import json
import os
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from filtune.lightning_modules.atomic import reason_full

from ..plain import HALF_PAIR

Operation = dict[str, Any]
"""What changes a learner: ``learn`` a sample and its label, let one ``wait``, ``label`` it, or change ``options``."""


class LogDamaged(ValueError):
    """The log cannot be read."""


class LogNotWritten(OSError):
    """A request could not be written to the log, and is not in it."""


class LoggedRequest(NamedTuple):
    """A request in the log.

    Attributes:
        first: The number of its first operation.
        operations: Its operations.
    """

    first: int
    operations: list[Operation]


class Payload(NamedTuple):
    """A request as it will be written.

    Attributes:
        length: The number of its operations.
        text: The operations, as JSON in one line.
    """

    length: int
    text: bytes


def payload(operations: Sequence[Operation]) -> Payload:
    """Return operations as they are written.

    Raises:
        ValueError: If they hold what JSON and UTF-8 cannot: NaN, an infinite number, or half a surrogate pair.
    """
    try:
        text = json.dumps(list(operations), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return Payload(len(operations), text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"the text {HALF_PAIR}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it holds what JSON cannot: {error}") from error


class Journal:
    """The log in a folder; one process writes it.

    Args:
        folder: The folder; created if it is missing.

    Attributes:
        end: The number of the next operation, known once the log was read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder.parent.parent, folder.parent):  # a power failure may take a folder that is new in them
            _sync_folder(place)
        self.end = 0
        self._descriptor: int | None = None
        self._size = 0
        self._broken = ""
        self._segments = threading.Lock()

    def read(self, after: int) -> Iterator[LoggedRequest]:
        """Yield what the log holds from an operation on; afterwards the log is open for writing.

        An incomplete last line was never acknowledged, and is cut off.

        Args:
            after: Operations that the snapshot has; of a request that it has half of, the rest is returned.

        Raises:
            LogDamaged: If a line that was acknowledged is damaged, or operations are missing; names the file and line.
        """
        self.end = after
        segments = self.segments()
        if segments and _first(segments[0]) > after:
            raise LogDamaged(
                f"{segments[0]}: operations {after} to {_first(segments[0]) - 1} are missing before it; restore the "
                "whole folder from a backup"
            )
        expected = _first(segments[0]) if segments else after
        for segment in segments:
            if _first(segment) != expected:
                raise LogDamaged(f"{segment}: operation {expected} was expected; a file before it is missing")
            is_last = segment == segments[-1]
            for entry in _entries(segment, expected, is_last):
                expected = entry.first + len(entry.operations)
                if expected > after:
                    yield LoggedRequest(max(entry.first, after), entry.operations[max(after - entry.first, 0) :])
        self.end = max(expected, after)
        if expected < after:  # all of it is in the snapshot
            for segment in segments:
                segment.unlink()
        elif segments:
            self._open(segments[-1])

    def append(self, payloads: Sequence[Payload]) -> int:
        """Write requests, all or none; they are on the disk when this returns.

        Returns:
            The number of the first operation.

        Raises:
            LogNotWritten: If they could not be written; the log is as it was.
        """
        if self._broken:
            raise LogNotWritten(self._broken)
        first, lines = self.end, []
        for count, text in payloads:
            body = b"%d %d %s" % (first, count, text)
            lines.append(b"%08x %s\n" % (zlib.crc32(body), body))
            first += count
        data = b"".join(lines)
        try:
            descriptor = self._descriptor if self._descriptor is not None else self._open(self._path(self.end))
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        except OSError as error:
            self._take_back()
            raise LogNotWritten(
                f"{self.folder}: {reason_full(error) or error.strerror}; nothing was accepted"
            ) from error
        self._size += len(data)
        start, self.end = self.end, first
        return start

    def rotate(self) -> None:
        """Begin a new segment with the next request."""
        if self._size:
            self.close()

    def prune(self, before: int) -> None:
        """Remove the segments all of whose operations are in a snapshot.

        Args:
            before: Operations that the snapshot has.
        """
        with self._segments:
            segments = self.segments()
            for segment, following in pairwise(segments):
                if _first(following) <= before:
                    segment.unlink(missing_ok=True)

    def segments(self) -> list[Path]:
        """Return the files, the oldest first."""
        return sorted(path for path in self.folder.iterdir() if re.fullmatch(r"\d{20}\.jsonl", path.name))

    def close(self) -> None:
        """Close the segment that is written."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._size = None, 0

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:020d}.jsonl"

    def _open(self, path: Path) -> int:
        is_new = not path.exists()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        if is_new:
            _sync_folder(self.folder)
        return self._descriptor

    def _take_back(self) -> None:
        """Cut off what a failed write has left; where that fails too, nothing more is accepted until a restart."""
        if self._descriptor is None:
            return
        try:
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        except OSError as error:
            self._broken = f"{self.folder}: {error.strerror}; the log takes nothing more until the service is restarted"


def _first(segment: Path) -> int:
    return int(segment.stem)


def _entries(segment: Path, expected: int, is_last: bool) -> Iterator[LoggedRequest]:
    """Yield the requests of a segment; cut off an incomplete end of the last one."""
    offset, bad = 0, None
    with segment.open("rb") as file:
        for number, line in enumerate(file, 1):
            entry = _parsed(line)
            if entry is not None and bad is None:
                if entry.first != expected:
                    raise LogDamaged(f"{segment}, line {number}: operation {expected} was expected, not {entry.first}")
                expected += len(entry.operations)
                offset += len(line)
                yield entry
            elif bad is None:
                bad = number
            elif entry is not None:
                break
        else:
            if bad is None:
                return
            if is_last:
                os.truncate(segment, offset)
                return
    raise LogDamaged(
        f"{segment}, line {bad}: its checksum is wrong, and it is not the last; restore the file from a backup, or cut "
        f"it before this line (head -n {(bad or 1) - 1}) to go on without what follows"
    )


def _parsed(line: bytes) -> LoggedRequest | None:
    """Return the request of a line; None where the line is incomplete or its checksum is wrong."""
    checksum, _, body = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    first, count, text = body.split(b" ", 2)
    operations = json.loads(text)
    return LoggedRequest(int(first), operations) if len(operations) == int(count) else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
