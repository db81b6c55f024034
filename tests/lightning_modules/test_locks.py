"""A folder has one writer, whose lock ends with it; temporary files of dead writers are removed."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from filtune.lightning_modules import locks
from filtune.lightning_modules.atomic import atomic_write, sweep, sweep_folder, temporary_name
from filtune.lightning_modules.locks import FolderInUse, FolderLock

FORK = multiprocessing.get_context("fork")


def _hold(folder: Path, pipe: Any, temporary: Path | None = None) -> None:
    lock = FolderLock(folder)
    lock.acquire()
    if temporary is not None:
        descriptor = os.open(temporary, os.O_RDWR)
        assert locks.try_lock(descriptor)
    pipe.send(True)
    signal.pause()


def holder(folder: Path, temporary: Path | None = None) -> Any:
    """A process that holds the lock of a folder, and of a temporary file."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=_hold, args=(folder, there, temporary))
    process.start()
    assert here.poll(60)
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(FolderInUse, match=rf"{tmp_path}: another command \(process {process.pid} on .*\) writes into"):
        FolderLock(tmp_path, remedy="start anew").acquire(patience=0.2)
    process.kill()
    process.join()
    with FolderLock(tmp_path):
        pass
    assert os.listdir(tmp_path) == [locks.NAME]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Such as the workers of a data loader, which live on for seconds after a kill."""
    lock = FolderLock(tmp_path)
    lock.acquire()
    child = FORK.Process(target=signal.pause)
    child.start()
    lock.release()
    try:
        with FolderLock(tmp_path):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_one_process_cannot_open_a_folder_twice(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(FolderInUse):
        FolderLock(tmp_path).acquire(patience=0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_after_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with FolderLock(tmp_path / "run"):
        pass
    assert "this file system has no locks" in capsys.readouterr().err
    left = temporary_name(tmp_path / "a.txt")
    left.write_text("")
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("whole")
    assert left.exists()  # whose writer may live
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_temporary_files_of_dead_writers_are_removed(tmp_path: Path) -> None:
    names = [".last.ckpt.abcd1234.ckpt", ".last.ckpt.abcd1234.tmp.ckpt"]
    others = [".last.ckpt.bak", "last.ckpt", ".other.ckpt.abcd1234.ckpt", ".last.ckpt.short.ckpt", ".last.ckpt.abcd123"]
    for name in [*names, *others]:
        (tmp_path / name).write_text("")
    living = temporary_name(tmp_path / "last.ckpt")
    living.write_text("")
    process = holder(tmp_path / "folder", living)
    try:
        with atomic_write(tmp_path / "last.ckpt") as file:
            file.write("new")
        assert sorted(os.listdir(tmp_path)) == sorted([*others, living.name, "folder"])
    finally:
        process.kill()
        process.join()
    sweep(tmp_path / "last.ckpt")
    assert not living.exists()
    sweep_folder(tmp_path)
    assert not (tmp_path / ".other.ckpt.abcd1234.ckpt").exists()
    assert (tmp_path / ".last.ckpt.bak").exists()


def test_a_temporary_folder_without_a_suffix_is_removed_and_a_users_is_not(tmp_path: Path) -> None:
    dead = temporary_name(tmp_path / "adapter")
    (dead / "deep").mkdir(parents=True)
    (tmp_path / ".adapter.settings").mkdir()  # eight letters, but no mark
    (tmp_path / "link").mkdir()
    link = tmp_path / ".adapter.abcd1234.tmp"
    link.symlink_to(tmp_path / "link")
    sweep(tmp_path / "adapter")
    assert sorted(os.listdir(tmp_path)) == [".adapter.abcd1234.tmp", ".adapter.settings", "link"]
