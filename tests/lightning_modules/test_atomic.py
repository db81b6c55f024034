"""Files that are written whole or not at all."""

from __future__ import annotations

import os

import pytest
from filtune.lightning_modules.atomic import atomic_path, atomic_write


def test_a_file_is_written_whole_in_a_new_folder(tmp_path):
    with atomic_write(tmp_path / "new" / "a.txt") as file:
        file.write("größer\n")
    with atomic_write(tmp_path / "new" / "b.bin", "wb") as file:
        file.write(b"\x00\x01")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "größer\n"
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"\x00\x01"
    assert sorted(os.listdir(tmp_path / "new")) == ["a.txt", "b.bin"]


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic") as file:
        file.write("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_library_that_writes_by_path_writes_whole_or_not_at_all(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with atomic_path(tmp_path / "new" / "a.csv") as temporary:
        assert temporary.suffix == ".csv"
        temporary.write_text("1")
        assert not synced
    assert len(synced) == 1

    def fail() -> None:
        with atomic_path(tmp_path / "new" / "a.csv") as temporary:
            temporary.write_text("half")
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        fail()
    assert (tmp_path / "new" / "a.csv").read_text() == "1"
    assert os.listdir(tmp_path / "new") == ["a.csv"]
