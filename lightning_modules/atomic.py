"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file in the folder of ``path``, and rename it to ``path`` when the block ends without an error.

    A reader, or a run that starts after a kill, finds the file that was there before or the whole new one. The data
    is synced to disk before the rename, for a file system may otherwise store the rename first.

    Args:
        path: The file to be written; its folder is created if it is missing.
        mode: ``w`` for text in UTF-8, ``wb`` for bytes.

    Yields:
        The temporary file, open for writing.

    Raises:
        OSError: If the file cannot be written; what was there before is still there.
    """
    with atomic_path(path) as temporary, open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give the path of a temporary file, as :func:`atomic_write` does, to a library that writes by path.

    Args:
        path: The file to be written; its folder is created if it is missing.

    Yields:
        The path of an empty temporary file, whose name ends as that of ``path`` does.

    Raises:
        OSError: If the file cannot be written; what was there before is still there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private; an ordinary file follows the umask
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
