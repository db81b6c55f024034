"""Image files that are replaced while a run reads them: a stream is known by its content, and is not to change."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np

from .samples import DataError

_BYTES = 16


class ImageFiles:
    """Size, time and digest of image files, as the fingerprint of the stream has read them.

    Size and time are compared at each read, 3 microseconds; the content is hashed where they differ, so that a file
    that was copied over itself is no other.

    Args:
        rows: Number of rows of the table.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._stats = np.empty((0, 2), dtype=np.int64)
        self._digests = np.empty((0, _BYTES), dtype=np.uint8)

    def note(self, row: int, path: Path, content: bytes) -> None:
        """Keep what is known of the file of a row."""
        if not len(self._stats):
            self._stats = np.full((self.rows, 2), -1, dtype=np.int64)
            self._digests = np.zeros((self.rows, _BYTES), dtype=np.uint8)
        self._stats[row] = _stat(path)
        self._digests[row] = _digest(content)

    def check(self, row: int, path: Path) -> None:
        """Check that the file of a row is the one that was noted, if one was.

        Raises:
            DataError: If it has another content.
        """
        if not len(self._stats) or self._stats[row, 0] < 0 or tuple(self._stats[row]) == (now := _stat(path)):
            return
        if not np.array_equal(_digest(path.read_bytes()), self._digests[row]):
            raise DataError(
                f"{path}: the image has changed since the run began, and a stream is known by its content; put the "
                "earlier file back and resume with --ckpt_path last, or start a new run, and leave the data as it is"
            )
        self._stats[row] = now


def _stat(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _digest(content: bytes) -> np.ndarray:
    return np.frombuffer(blake2b(content, digest_size=_BYTES).digest(), dtype=np.uint8)
