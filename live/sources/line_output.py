"""Lines of answers: of a file, with those after the last saved state written again, or of a pipe or a device."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from filtune.lightning_modules.atomic import DiskFull, reason_full

from ..plain import json_text
from .base import AnswerOutput


class FileOutput(AnswerOutput):
    """The lines that are written; of a file, those after the last saved state are written again when it goes on.

    A pipe or a device, such as standard output or ``/dev/null``, keeps nothing that could be cut, so that its state is
    None.

    Args:
        address: A file, whose folder is created if it is missing, or ``-`` for standard output.
        state: Bytes of the file that belong to the state; None where there is no state, or it has written to no file.

    Raises:
        ValueError: If the file has content of something else, has lost lines, or cannot be written.
    """

    schemes: ClassVar = ("",)

    def __init__(self, address: str, state: Any) -> None:
        if isinstance(state, dict):
            raise ValueError(f"--output: the state has written to the stream {state['stream']!r}, not to {address}")
        self.is_standard = address == "-"
        self.name = "standard output" if self.is_standard else address
        self.is_file = not self.is_standard and _may_be_cut(Path(address))
        if self.is_standard:
            self.file: BinaryIO = sys.stdout.buffer
            return
        path, size = Path(address), state
        present = path.stat().st_size if self.is_file and path.exists() else 0
        if size is None and present:
            raise ValueError(f"--output: {path} has content that is not of this state; name a new file")
        if self.is_file and size is not None and present < size:
            raise ValueError(f"--output: {path} has {present} bytes, the state has written {size}; put it back")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "ab")  # noqa: SIM115
        except OSError as error:
            raise ValueError(
                f"--output: {path} cannot be written ({error.strerror}); name a file that can be"
            ) from error
        if self.is_file:
            self.file.truncate(size or 0)

    def write(self, row: Mapping[str, Any], is_ready: bool = False) -> None:
        """Write a line, at once; half of a surrogate pair is written as JSON escapes it.

        Raises:
            BrokenPipeError: If the reader of a pipe has gone.
            OSError: If it cannot be written; names the output.
        """
        with self._naming_errors():
            self.file.write(json_text(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
            self.file.flush()

    def state(self) -> int | None:
        """Return the bytes that are on the disk now; None of a pipe or a device."""
        if not self.is_file:
            return None
        with self._naming_errors():
            os.fsync(self.file.fileno())
            return os.fstat(self.file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        if not self.is_standard:
            with suppress(OSError):  # what could not be written was reported when it was written
                self.file.close()

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """Let an error of a write name the output.

        Raises:
            OSError: If the block raises one.
        """
        try:
            yield
        except OSError as error:
            if self.is_standard:  # what is left in its buffer would fail once more when the process ends
                with suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            if reason := reason_full(error):
                raise DiskFull(
                    f"--output: {self.name}: {reason}; make room, and repeat the command: it goes on from its state"
                ) from error
            raise OSError(f"--output: {self.name} cannot be written ({error.strerror})") from error


def _may_be_cut(path: Path) -> bool:
    """Return whether a path is that of a regular file, or of one that is not there yet.

    Raises:
        ValueError: If it cannot be looked at, or is a folder.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True
    except OSError as error:
        raise ValueError(f"--output: {path} cannot be written ({error.strerror}); name a file that can be") from error
    if stat.S_ISDIR(mode):
        raise ValueError(f"--output: {path} is a folder; name a file in it")
    return stat.S_ISREG(mode)
