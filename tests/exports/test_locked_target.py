"""An export keeps other processes from its folder, and writes into none that another process writes into."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from filtune.exports import target as targets
from filtune.exports.target import check_target, locked, named, whole_folder
from filtune.lightning_modules.locks import FolderInUse, FolderLock

FORK = multiprocessing.get_context("fork")


def _hold(kind: str, folder: Path, ready: Any, done: Any) -> None:
    with locked(folder) if kind == "export" else FolderLock(folder):
        ready.set()
        done.wait(60)


@pytest.mark.parametrize("kind", ["export", "run"])
def test_a_folder_in_use_is_refused_naming_the_process(tmp_path: Path, kind: str) -> None:
    ready, done = FORK.Event(), FORK.Event()
    folder = tmp_path / "a 'folder'\n\u00fc"
    other = FORK.Process(target=_hold, args=(kind, folder, ready, done))
    other.start()
    assert ready.wait(60)
    said = rf"another command \(process {other.pid} on .*\) writes into this folder"
    with pytest.raises(FolderInUse, match=said), locked(folder, patience=0.1):
        pytest.fail("two processes have the folder")

    done.set()
    other.join()
    with locked(folder), whole_folder(folder) as new:
        (new / "file").write_text("x")
    assert os.listdir(tmp_path) == [folder.name]
    assert os.listdir(folder) == ["file"]


def test_a_killed_export_leaves_no_lock_that_matters(tmp_path: Path) -> None:
    ready, done = FORK.Event(), FORK.Event()
    other = FORK.Process(target=_hold, args=("export", tmp_path / "a", ready, done))
    other.start()
    assert ready.wait(60)
    other.kill()
    other.join()
    with locked(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == []


def test_many_exports_into_one_folder_follow_one_another(tmp_path: Path) -> None:
    """Each waits for the one before, whose lock file is removed while the next ones have it open."""
    inside, folder, failures = [0], tmp_path / "a", []

    def export(number: int) -> None:
        try:
            with locked(folder, patience=60), whole_folder(folder) as new:
                inside[0] += 1
                failures.extend([number] if inside[0] != 1 else [])
                (new / "file").write_text(str(number))
                inside[0] -= 1
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=export, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert os.listdir(tmp_path) == ["a"]
    assert int((folder / "file").read_text()) in range(8)


def test_an_earlier_export_that_was_moved_aside_is_put_back_before_it_is_looked_at(tmp_path: Path) -> None:
    moved = targets._moved(tmp_path / "a")
    moved.mkdir()
    (moved / targets.MARK).write_text("")
    with locked(tmp_path / "a"), pytest.raises(ValueError, match="is not empty; name another folder"):
        check_target(tmp_path / "a", overwrite=False)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_replaced_and_nothing_behind_it(tmp_path: Path, there: bool) -> None:
    behind = tmp_path / "behind"
    if there:
        behind.mkdir()
        (behind / ".lock").write_text("")
    (tmp_path / "link").symlink_to(behind)
    target = named(tmp_path / "link")
    with locked(target), whole_folder(target) as new:
        (new / "file").write_text("x")
    assert os.listdir(tmp_path / "link") == ["file"]
    assert not (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == (["behind", "link"] if there else ["link"])
    assert not there or (behind / ".lock").read_text() == ""


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", "", str(tmp_path / "here"), "../here"):
        with pytest.raises(ValueError, match="is the current folder; name a folder in it"):
            named(Path(name))
    assert named(Path("..")) == tmp_path
    assert named(Path("a")) == Path("a")
