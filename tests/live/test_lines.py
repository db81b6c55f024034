"""Lines of a file: a last line without its end, rotation, and what is no regular file."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filtune.lightning_modules import signals
from filtune.live.commands import run_learn
from filtune.live.sources import SourceOptions, lines, open_output, open_source
from filtune.live.sources.line_output import FileOutput
from filtune.live.sources.lines import Lines

from tests.live.test_watched_stream import options, places, run, same
from tests.live.test_watched_stream import read as answers

__all__ = ["options"]


@pytest.fixture(autouse=True)
def no_signal() -> Iterator[None]:
    yield
    signals.defer(False)


def read(source: Lines) -> list[Any]:
    return list(source)


def resumed(path: Path, before: Lines, **options: bool) -> Lines:
    return Lines(str(path), SourceOptions(**options), json.loads(json.dumps(before.state())))


@pytest.mark.parametrize(
    "last", [b'{"a": 0.12', b'{"a": 1, "b": "x\\', b"12", b"-1.5", b'"te', b"[1, 2", b"fal", b'{"a": "\xc3', b"{" * 9]
)
def test_a_line_that_is_written_by_half_is_read_once_it_is_whole(
    tmp_path: Path, last: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in"
    path.write_bytes(b'{"a": 1}\n' + last)
    first = Lines(str(path), SourceOptions())
    assert read(first) == [b'{"a": 1}\n']
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"filtune: --input: the last line of {path} is incomplete and was not read")
    with path.open("ab") as file:
        file.write(b'34}\n{"a": 2}\n')
    second = resumed(path, first)
    assert read(second) == [last + b"34}\n", b'{"a": 2}\n']
    assert (second.count, second.position) == (3, path.stat().st_size)


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"  \n"])
def test_the_end_of_a_whole_line_may_come_later(tmp_path: Path, end: bytes, follow: bool) -> None:
    path = tmp_path / "in"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    first = Lines(str(path), SourceOptions())
    assert read(first) == [b'{"a": 1}\n', b'{"a": 2}']
    with path.open("ab") as file:
        file.write(end)
    if not follow:
        between = resumed(path, first)
        assert read(between) == []
        assert (between.count, between.position) == (2, path.stat().st_size)  # as if it had been there at first
    with path.open("ab") as file:
        file.write(b'{"a": 3}\n\n')
    second = resumed(path, first, follow=follow)
    found = iter(second)
    assert [next(found), next(found)] == [b'{"a": 3}\n', b"\n"]  # an empty line of its own is one
    assert second.count == 4


def test_a_file_that_is_written_in_pieces_is_learned_as_a_whole_one(tmp_path: Path, options: list[str]) -> None:
    """The state and the answers are those of one command, bit for bit, wherever the file is cut."""
    content = (tmp_path / "in").read_bytes()
    whole = places(tmp_path, "whole")
    assert run(*options, *whole) == 0
    first = content.index(b"\n")
    (tmp_path / "in").unlink()
    for cut in (first - 4, first, first + 1, first + 9, len(content) - 1, len(content)):
        (tmp_path / "in").write_bytes(content[:cut])
        assert run(*options, *places(tmp_path, "cut")) == 0
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert same(tmp_path / "cut.ckpt", tmp_path / "whole.ckpt") == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "POLL", 0.01)


def test_a_file_that_is_rotated_is_followed(tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    """What its writer still adds to the old file is read too."""
    path, old = tmp_path / "in", tmp_path / "in.1"
    path.write_bytes(b"1\n2\n")
    source = Lines(str(path), SourceOptions(follow=True))
    found = iter(source)
    assert [next(found), next(found)] == [b"1\n", b"2\n"]
    with path.open("ab") as writer:
        path.rename(old)
        path.write_bytes(b"5\n")
        writer.write(b"3\n4")
    assert [next(found), next(found)] == [b"3\n", b"4"]
    state = source.state()
    assert [next(found), source.count, source.position] == [b"5\n", 5, 2]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"filtune: --input: {path} is a new file; the old one was read to its end")
    after_kill = Lines(str(path), SourceOptions(), state)  # killed before it went on with the new file
    assert (read(after_kill), after_kill.state()) == ([b"5\n"], source.state())
    with path.open("ab") as file:
        file.write(b"6\n")
    assert (next(found), source.position) == (b"6\n", 4)


@pytest.mark.parametrize("follow", [False, True])
def test_a_file_that_was_rotated_between_two_commands(tmp_path: Path, quick: None, follow: bool) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"1\n2\n3\n")
    first = Lines(str(path), SourceOptions())
    next(iter(first))
    path.rename(tmp_path / "in.jsonl.1")
    path.write_bytes(b"4\n5\n")
    found = iter(resumed(path, first, follow=follow))
    assert [next(found) for _ in range(4)] == [b"2\n", b"3\n", b"4\n", b"5\n"]


def test_a_file_that_was_rotated_twice_is_refused_with_the_way_to_read_it(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"1\n2\n")
    first = Lines(str(path), SourceOptions())
    next(iter(first))
    for number, (name, content) in enumerate([("in.2", b"3\n"), ("in.1", b"4\n")]):
        path.rename(tmp_path / name)
        os.utime(tmp_path / name, (number, number))
        path.write_bytes(content)
    words = rf"rotated more than once .*: cat {path}.2 {path}.1 {path} > JOINED"
    with pytest.raises(ValueError, match=words):
        resumed(path, first)
    joined = tmp_path / "joined"
    joined.write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("in.2", "in.1", "in")))
    assert read(resumed(joined, first)) == [b"2\n", b"3\n", b"4\n"]


def test_a_named_pipe_is_read_as_standard_input_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"a": 1}\n{"a": 2}',))
    writer.start()
    assert read(Lines(str(pipe), SourceOptions())) == [b'{"a": 1}\n', b'{"a": 2}']
    writer.join()
    with pytest.raises(ValueError, match="--follow: .*/pipe is a pipe, and is read to its end anyway"):
        Lines(str(pipe), SourceOptions(follow=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: open_source("http://x/y", SourceOptions(), None), "--input: there is no scheme 'http'; .*hub:, re"),
        (lambda p: open_output("s3://x/y", None), "--output: there is no scheme 's3'; .*redis:, rediss:, unix:"),
        (lambda p: open_output("/dev/full", None).write({"line": 1}), "--output: /dev/full: No space left on device"),
        (lambda p: open_output(str(p), None), "--output: .* is a folder"),
        (lambda p: open_output(str(p / "file" / "x"), None), "--output: .*file/x cannot be written"),
        (lambda p: open_source(str(p), SourceOptions(), None), "--input: .* is a folder"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_option(tmp_path: Path, call: Callable[[Path], Any], words: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, OSError)) as refused:
        call(tmp_path)
    assert re.search(words, str(refused.value))


def test_outputs_that_are_no_files_yet(tmp_path: Path) -> None:
    nothing = FileOutput("/dev/null", 100)
    nothing.write({"line": 1})
    assert nothing.state() is None
    nothing.close()
    new = FileOutput(str(tmp_path / "a" / "b" / "out"), None)
    new.write({"line": 1})
    assert new.state() == 12
    new.close()


def test_a_reader_that_has_gone(
    tmp_path: Path,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The state is saved, and the next command goes on after the sample whose answer nobody has read."""
    here, there = os.pipe()
    os.close(here)
    own = [*options[1:], *places(tmp_path, "out")]
    own[own.index("--output") + 1] = f"/dev/fd/{there}"
    with pytest.raises(BrokenPipeError):
        run_learn(own)
    os.close(there)
    assert f"filtune: the reader of the answers has gone; the state is in {tmp_path / 'out.ckpt'}" in (
        capsys.readouterr().err
    )
    own[own.index("--output") + 1] = str(tmp_path / "out")
    assert run_learn(own) == 0
    assert answers(tmp_path / "out")[0]["line"] == 2


def test_answers_to_a_pipe_do_not_let_a_file_be_cut(
    tmp_path: Path,
    options: list[str],
    refused: Callable[..., str],
) -> None:
    own = [*options, *places(tmp_path, "out")]
    own[own.index("--output") + 1] = "/dev/null"
    assert run(*own) == 0
    own[own.index("--output") + 1] = str(tmp_path / "precious")
    (tmp_path / "precious").write_text("content")
    assert "has content that is not of this state" in refused(*own)
    assert (tmp_path / "precious").read_text() == "content"


@pytest.mark.parametrize("content", ["no checkpoint", "", None])
def test_a_state_that_is_none_is_named(
    tmp_path: Path,
    options: list[str],
    refused: Callable[..., str],
    content: str | None,
) -> None:
    own, state = [*options, *places(tmp_path, "out")], tmp_path / "out.ckpt"
    state.mkdir() if content is None else state.write_text(content)
    line = refused(*own)
    assert line.startswith(f"filtune: error: --state: {'there is no checkpoint ' if content is None else ''}{state}")
    assert "ckpt_path" not in line
    assert "name another --state" in line
