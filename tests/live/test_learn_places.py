"""The files of ``filtune learn``: input, output and state are different ones, and a state has one command at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filtune.lightning_modules.locks import FolderLock
from filtune.live.commands import learn_parser
from filtune.live.places import check_places, lock_of

from filtune.cli import main
from tests.live.test_watched_stream import options, places, run

__all__ = ["options"]


def linked(kind: str, file: Path) -> Path:
    """Another name of a file."""
    other = file.with_name(f"{kind}.jsonl")
    if kind == "symlink":
        other.symlink_to(file.name)
    elif kind == "hardlink":
        other.hardlink_to(file)
    return file if kind == "same" else other


@pytest.mark.parametrize("kind", ["same", "symlink", "hardlink"])
@pytest.mark.parametrize(
    "pair", [("--input", "--output"), ("--state", "--output"), ("--state", "--input")], ids="".join
)
def test_two_options_with_one_file(
    tmp_path: Path, refused: Callable[..., str], kind: str, pair: tuple[str, str]
) -> None:
    file = tmp_path / "one.jsonl"
    file.write_bytes(content := b'{"text": "a"}\n')
    given = {"--state": tmp_path / "s.ckpt", "--input": tmp_path / "in", "--output": tmp_path / "out"}
    given |= {pair[0]: file, pair[1]: linked(kind, file)}
    line = refused("learn", *(str(word) for option in given.items() for word in option), "--ckpt_path", "none")
    assert f"{pair[1]} and {pair[0]}: both are the file" in line
    assert (file.read_bytes(), list(tmp_path.glob(".*"))) == (content, [])


def test_files_that_are_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def check(*words: str) -> None:
        check_places(learn_parser().parse_args(["--input", "in", *words]))

    with pytest.raises(ValueError, match="--output and --state: both are the file"):
        check("--state", "s.ckpt", "--output", str(tmp_path / "s.ckpt"))
    with pytest.raises(ValueError, match=r"--output and --webhook \(its file of alarms\)"):
        check("--state", "s.ckpt", "--output", "./s.ckpt.webhook.jsonl", "--webhook", "http://localhost")
    check("--state", "s.ckpt", "--output", "/dev/null", "--input", "/dev/null")  # no file in which anything would be
    check("--state", "s.ckpt", "--output", "redis://h?stream=a", "--input", "redis://h?stream=a")


def test_standard_output_that_is_directed_to_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_text("")
    with (tmp_path / "in").open("a") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        given = learn_parser().parse_args(["--state", str(tmp_path / "s"), "--input", str(tmp_path / "in")])
        with pytest.raises(ValueError, match="--output and --input: both are the file .*/in;"):
            check_places(given)


@pytest.mark.parametrize("further", [[], ["--rollback"]])
def test_a_state_has_one_command(
    tmp_path: Path,
    options: list[str],
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    further: list[str],
) -> None:
    monkeypatch.setattr(FolderLock.acquire, "__defaults__", (0.0,))
    own = [*options, *places(tmp_path, "out")]
    with lock_of(tmp_path / "out.ckpt"):
        line = refused(*own, *further)
        assert run(*options, *places(tmp_path, "other")) == 0  # another state of the folder is free
    assert f"--state {tmp_path / 'out.ckpt'}: another command (process {os.getpid()} on " in line
    assert "writes into this file; wait for it, or name another --state" in line
    assert not (tmp_path / "out").exists()
    main(own)  # the lock is released
    main(own)


def test_the_lock_of_a_link_is_that_of_the_state(tmp_path: Path) -> None:
    (tmp_path / "s.ckpt").write_text("")
    (tmp_path / "link").symlink_to("s.ckpt")
    with lock_of(tmp_path / "link"), pytest.raises(ValueError, match="another command"):
        lock_of(tmp_path / "s.ckpt").acquire(patience=0)
