"""Locks of folders and files that end with the process that holds them, however it ends.

The kernel keeps an advisory lock (``flock(2)``) with the open file, and releases it when the process ends: there is no
lock file to be deleted after a kill. A file system without such locks (some network file systems, some FUSE mounts) is
used without one, after a warning.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

from typing_extensions import Self

NAME = ".lock"
"""Name of the file in a folder that is locked; it stays there, for deleting it would be a race."""

PATIENCE = 5.0
"""Seconds to wait for a lock: a process that was killed needs a moment to end."""

_PAUSE = 0.1


class FolderInUse(ValueError):
    """Another process writes into the folder."""


def try_lock(descriptor: int, shared: bool = False) -> bool | None:
    """Return whether an open file could be locked; None where its file system has no locks.

    Args:
        descriptor: The open file. The lock is released when it is closed, by the kernel at the latest.
        shared: Whether others that ask for the same may hold the lock as well.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK, ENOTSUP, ENOSYS; on NFS also EBADF for a file that is open for reading alone
        return None
    return True


class FolderLock:
    """A lock that keeps other processes from writing into a folder until it is released or this process ends.

    With ``file`` it is a lock of that file alone, which is held beside it: a file that is replaced as a whole has no
    descriptor that could be locked.

    Processes that are forked from this one, such as the workers of a data loader, do not hold it.

    Args:
        folder: The folder; created if it is missing.
        name: What the message calls it, such as ``--root runs``; by default its path.
        remedy: What else than waiting can be done, for the message.
        shared: Whether processes that ask for the same may hold the lock as well.
        file: Name of the only file in the folder that is locked; by default all are.
    """

    def __init__(self, folder: Path, name: str = "", remedy: str = "", shared: bool = False, *, file: str = "") -> None:
        self.folder, self.name, self.remedy, self.shared = folder, name or str(folder), remedy, shared
        self._file, self._what = (f".{file}{NAME}", "this file") if file else (NAME, "this folder")
        self._descriptor: int | None = None

    def acquire(self, patience: float = PATIENCE) -> None:
        """Lock the folder.

        Args:
            patience: Seconds to wait for another process to end.

        Raises:
            FolderInUse: If another process holds the lock; names it.
            ValueError: If the file to be locked is a link to another one, or cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = self._open(self.folder / self._file)
        try:
            self._wait(descriptor, time.monotonic() + patience)
            with suppress(OSError):  # it only tells another who holds the lock
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if path.is_symlink():
                raise ValueError(f"{path}: is a symbolic link, and would be written through; remove it") from error
            other = f", or {self.remedy}" if self.remedy else ""
            raise ValueError(f"{path}: {error.strerror}; let this folder be written{other}") from error

    def _wait(self, descriptor: int, until: float) -> None:
        while (locked := try_lock(descriptor, self.shared)) is False:
            if time.monotonic() >= until:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "?"
                raise FolderInUse(
                    f"{self.name}: another command (process {holder}) writes into {self._what}; wait for it"
                    f"{f', or {self.remedy}' if self.remedy else ''}"
                )
            time.sleep(_PAUSE)
        if locked is None:
            print(
                f"filtune: warning: {self.name}: this file system has no locks; start no second command that writes "
                f"into {self._what}",
                file=sys.stderr,
            )

    def __enter__(self) -> Self:
        """Lock the folder; see :meth:`acquire`."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.release()


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _release_in_child() -> None:
    for lock in _held:
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)  # the parent's lock is released with its own last descriptor
