"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .locks import try_lock

FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded", errno.EFBIG: "File too large"}
"""Errors of a write for which there is no space."""

_RANDOM, _MARK = "[a-z0-9_]{8}", r"\.tmp"


class DiskFull(OSError):
    """There is no space left for a file; what was there before is still there."""


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
        DiskFull: If there is no space left; what was there before is still there.
        OSError: If the file cannot be written; the same holds.
    """
    with atomic_path(path) as temporary, open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give the path of a temporary file, as :func:`atomic_write` does, to a library that writes by path.

    What killed processes have left of earlier temporary files of the same path is removed.

    Args:
        path: The file to be written; its folder is created if it is missing.

    Yields:
        The path of an empty temporary file, whose name ends as that of ``path`` does.

    Raises:
        DiskFull: If there is no space left; what was there before is still there.
        OSError: If the file cannot be written; the same holds.
    """
    target = Path(path)
    with explained_if_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        temporary, descriptor = _temporary_file(target)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def explained_if_full(path: Path) -> Iterator[None]:
    """Turn any error of a write for which there is no space into :class:`DiskFull`, which names the file.

    Libraries report it by errors of their own, without its number: torch by a RuntimeError.

    Raises:
        DiskFull: If there is no space left; other errors pass through.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        reason = reason_full(error)
        if reason is None:
            raise
        raise DiskFull(
            f"{path}: {reason}; what was there before is still there: make room, and repeat the command"
        ) from error


def reason_full(error: BaseException | None) -> str | None:
    """Return in the system's words that there is no space left, if an error or one of its causes says so."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error may be raised from itself
        seen.add(id(error))
        for number, words in FULL.items():
            if getattr(error, "errno", None) == number or words.lower() in str(error).lower():
                return words
        error = error.__cause__ or error.__context__
    return None


def sweep(target: Path) -> None:
    """Remove temporary files and folders of ``target`` whose writers have ended.

    A writer holds a lock on its temporary file. Where the file system has no locks, nothing is removed.

    Args:
        target: The file or folder that they were to become.
    """
    mark = rf"({_MARK})?" if target.suffix else _MARK  # earlier releases had no mark: with a suffix they are known too
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{_RANDOM}{mark}{re.escape(target.suffix)}")
    for entry in _entries(target.parent):
        if pattern.fullmatch(entry.name):
            _remove_if_dead(entry)


def sweep_folder(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers have ended, whatever they were to become."""
    for entry in _entries(folder):
        if found := re.fullmatch(rf"\.(.+)\.{_RANDOM}(?:{_MARK})?(\.\w+)", entry.name):
            name, suffix = found.groups()
            if Path(name).suffix == ("" if suffix == ".tmp" else suffix):
                _remove_if_dead(entry)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # missing, or not to be listed
        return []


def _remove_if_dead(path: Path) -> None:
    """Remove a temporary file or folder unless its writer lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW if path.is_dir() else os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # gone, or another user's, or a link
        return
    try:
        if try_lock(descriptor):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def temporary_name(target: Path) -> Path:
    """Return a path beside ``target`` by which :func:`sweep` recognises a temporary file or folder."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789_"
    word = "".join(secrets.choice(alphabet) for _ in range(8))
    return target.with_name(f".{target.name}.{word}.tmp{target.suffix}")


def _temporary_file(target: Path) -> tuple[Path, int]:
    """Create a temporary file and lock it; its permissions follow the umask."""
    while True:
        path = temporary_name(target)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue
        locked = try_lock(descriptor) is not False  # a sweeper may have come first; None: there are no locks here
        if locked and os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)
