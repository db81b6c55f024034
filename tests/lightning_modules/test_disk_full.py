"""A full disk is reported in one line, and what was there before stays."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.exports.target import whole_folder
from filtune.lightning_modules.atomic import DiskFull, atomic_path, atomic_write, reason_full
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO

from tests.lightning_modules.test_integrity import CHECKPOINT


@pytest.fixture
def small_files():
    """No file of this process may exceed 20,000 bytes; the error is that of a full disk in all but its number."""
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_for_which_there_is_no_space(tmp_path: Path, small_files: Any) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint(CHECKPOINT, path)
    before = path.read_bytes()
    small_files()
    with pytest.raises(DiskFull, match=r"last\.ckpt: File too large; what was there before is still there"):
        io.save_checkpoint({**CHECKPOINT, "large": torch.rand(100_000)}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_any_call_may_find_the_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def write() -> None:
        with atomic_write(path) as file:
            file.write("after")

    monkeypatch.setattr(os, call, _full)
    with pytest.raises(DiskFull, match=r"a\.txt: No space left on device"):
        write()
    monkeypatch.undo()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:863] . PytorchStreamWriter failed: No space left on device"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        Exception("I/O error: No space left on device (os error 28)"),  # as safetensors has it
    ],
)
def test_the_errors_of_libraries_are_recognised(tmp_path: Path, error: Exception) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "out.parquet"):
            raise error

    def export() -> None:
        with whole_folder(tmp_path / "model"):
            raise error

    for call in (write, export):
        with pytest.raises(DiskFull, match="make room"):
            call()
    assert os.listdir(tmp_path) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "a.txt"):
            raise KeyError("a")

    with pytest.raises(KeyError):
        write()


def test_an_error_that_is_raised_from_itself() -> None:
    error = ValueError("something else")
    error.__cause__ = error
    assert reason_full(error) is None
