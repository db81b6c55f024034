"""The folder of an export: locked, then written beside its place and moved there as a whole."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filtune.lightning_modules.atomic import explained_if_full, sweep, temporary_name
from filtune.lightning_modules.locks import NAME, PATIENCE, FolderInUse, FolderLock, try_lock

MARK = "README.md"
"""File by which an export is recognised, together with one of ``WEIGHTS``."""

WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json", "model.onnx", "model.pt2")

_REMEDY = "name another folder"


def named(target: Path) -> Path:
    """Return a folder by a path that ends in its name; a link stays a link, for it is the link that is replaced.

    Raises:
        ValueError: If it is the current folder, which would be replaced under the user.
    """
    found = target.parent.resolve() / target.name if target.name not in ("", "..") else target.resolve()
    if found == Path.cwd() or not found.name:
        raise ValueError(f"--to: {target} is the current folder; name a folder in it")
    return found if target.name in ("", "..") else target


@contextmanager
def locked(target: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Keep other exports from a folder, and other commands that write into it, such as a run or a sweep.

    The folder is replaced as a whole, and its own lock with it: exports lock a file beside it, which they remove. A
    folder that other commands write into has a lock of its own, which is held too.

    Args:
        target: The folder; it may not exist yet.
        patience: Seconds to wait for another process to end.

    Raises:
        FolderInUse: If another process writes into the folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    descriptor = _lock_file(path, target, time.monotonic() + patience)
    with ExitStack() as own:
        own.callback(os.close, descriptor)
        own.callback(path.unlink, missing_ok=True)  # before it is released: who waits for it finds that it is gone
        if (target / NAME).is_file() and not target.is_symlink():
            lock = FolderLock(target, f"--to {target}", _REMEDY)
            lock.acquire(patience)
            own.callback(lock.release)
        yield


def _lock_file(path: Path, target: Path, until: float) -> int:
    """Return the descriptor of a locked file that is still the one at its path."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        is_locked = try_lock(descriptor) is not False  # None: the file system has no locks
        if is_locked and path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            with suppress(OSError):  # it only tells another who holds the lock
                os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
            return descriptor
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "?"
        os.close(descriptor)
        if not is_locked and time.monotonic() >= until:
            raise FolderInUse(
                f"--to {target}: another command (process {holder}) writes into this folder; wait for it, or {_REMEDY}"
            )
        time.sleep(0 if is_locked else 0.1)


def check_target(target: Path, overwrite: bool) -> None:
    """Check that an export may be written to a locked folder; an earlier one that a killed export moved is put back.

    Raises:
        ValueError: If something is there already.
    """
    _restore_moved(target)
    if target.is_dir() and any(path.name != NAME for path in target.iterdir()):
        if not overwrite:
            raise ValueError(f"--to: {target} is not empty; name another folder, or replace it with --overwrite")
        if not is_export([path.name for path in target.iterdir() if path.is_file()]):
            raise ValueError(f"--overwrite: {target} is not an earlier export, and is left alone; name another folder")
    elif target.exists() and not target.is_dir():
        raise ValueError(f"--to: {target} is a file; name a folder")


def is_export(names: Collection[str]) -> bool:
    """Return whether files of these names are an earlier export."""
    return MARK in names and any(name in names for name in WEIGHTS)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Return a temporary folder beside a locked one that takes its place in the end, or is removed on an error.

    What killed exports of the same target have left is removed, after an earlier export that one had moved aside is
    put back.

    Raises:
        DiskFull: If there is no space left; what was there before is still there.
    """
    with explained_if_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _restore_moved(target)
        sweep(target)
        temporary = temporary_name(target)
        temporary.mkdir()
        descriptor = os.open(temporary, os.O_RDONLY)
        try_lock(descriptor)
        try:
            yield temporary
            moved = _moved(target)
            if os.path.lexists(target):
                os.rename(target, moved)
            os.rename(temporary, target)
            _remove(moved)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(descriptor)


def _restore_moved(target: Path) -> None:
    """Put an earlier export back that a killed one had moved aside, or remove it where the new one had arrived."""
    moved = _moved(target)
    if os.path.lexists(moved) and not os.path.lexists(target):
        os.rename(moved, target)
    _remove(moved)


def _remove(moved: Path) -> None:
    """Remove what was moved aside: of a link the link alone."""
    if moved.is_symlink():
        moved.unlink()
    else:
        shutil.rmtree(moved, ignore_errors=True)


def _moved(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")
