"""``filtune learn`` with Redis Streams, on a real server: every entry is learned from once and has one answer."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filtune.live.answers import Answers
from filtune.live.sources import redis_output, redis_server, redis_source
from filtune.live.sources.redis_source import RedisSource

from tests.endurance.chaos import first_difference
from tests.endurance.redis_kills import compare
from tests.live.redis_runs import (
    RedisProcess,
    answers,
    config,
    end_of,
    entries,
    feed,
    forked,
    learn,
    running_server,
    state_of,
    waited,
)


@pytest.fixture(scope="module")
def running() -> Iterator[RedisProcess]:
    with running_server() as server:
        yield server


@pytest.fixture
def server(running: RedisProcess) -> RedisProcess:
    running.client.flushall()
    return running


def run(server: RedisProcess, folder: Path, name: str = "a", *options: str, interval: int = 5) -> None:
    streams = ["--input", server.url("in", group=name), "--output", server.url(f"out-{name}")]
    learn(folder, name, *streams, *options, interval=interval)


def rows(server: RedisProcess, name: str = "a") -> list[dict[str, Any]]:
    return [json.loads(fields[b"json"]) for _, fields in answers(server, f"out-{name}")]


def test_entries_are_answered_and_acknowledged(
    server: RedisProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        {"a": "1", "b": "0.5", "label": "pos"},
        {"json": '{"a": 0, "b": 1, "label": "neg"}'},
        {"a": "1e0", "b": " ", "id": "17"},
        {"id": "17", "label": "pos"},
        {"a": "x", "label": "pos"},
        {"json": "{no"},
        {"json": b"\xff"},
        {"a": b"\xff\xfe", "label": "neg"},
        {"a": "1", "label": b"\xff"},
        {"label": "pos"},
    ]
    ids = [server.client.xadd("in", fields) for fields in found]
    run(server, tmp_path)
    assert [id for id, _ in answers(server, "out-a")] == ids
    answered = rows(server)
    assert [row["entry"].encode() for row in answered] == ids
    assert [row.get("learned") for row in answered] == [True, True, False, True, *[None] * 6]
    assert [row["error"].partition(":")[0] for row in answered[4:7]] == ["x", "no JSON", "no JSON"]
    assert server.client.xinfo_groups("in")[0]["pending"] == 0
    assert "10 samples read, 3 learned from, 6 bad" in capsys.readouterr().err
    run(server, tmp_path)  # nothing is left
    assert len(rows(server)) == len(ids)


class Killed(BaseException):
    """Nothing is saved for it."""


PLACES = [
    (Answers, "answer", "before"),
    (redis_output.RedisOutput, "write", "before"),
    (redis_output.RedisOutput, "write", "after"),
    (RedisSource, "acknowledge", "before"),
    (RedisSource, "acknowledge", "after"),
]


@pytest.mark.parametrize(("owner", "name", "moment"), PLACES)
def test_a_stop_at_any_place(
    server: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, moment: str
) -> None:
    """Between answer, output, checkpoint and acknowledgement: the state and the answers are those of one run."""
    feed(server, "in", entries(18, labelled=0.3))
    run(server, tmp_path, "whole")
    method, calls = getattr(owner, name), []

    def dies(self: Any, *args: Any) -> Any:
        calls.append(name)
        is_time = len(calls) in (2, 4)
        if is_time and moment == "before":
            raise Killed
        found = method(self, *args)
        if is_time:
            raise Killed
        return found

    monkeypatch.setattr(owner, name, dies)
    for _ in range(2):
        with pytest.raises(Killed):
            run(server, tmp_path, "cut")
    run(server, tmp_path, "cut")
    assert first_difference(state_of(tmp_path / "cut.ckpt"), state_of(tmp_path / "whole.ckpt")) is None
    assert answers(server, "out-cut") == answers(server, "out-whole")
    assert [each["pending"] for each in server.client.xinfo_groups("in")] == [0, 0]


def test_kills_of_the_process() -> None:
    found = compare(samples=120, kills=3, labelled=0.1, interval=20)
    assert (found["state_difference"], found["one_answer_per_sample"], found["answers_equal"]) == (None, True, True)
    assert found["pending"] == [0, 0]


@pytest.mark.slow
def test_twenty_kills() -> None:
    found = compare(samples=5000, kills=20, labelled=0.2)
    assert (found["state_difference"], found["one_answer_per_sample"], found["answers_equal"]) == (None, True, True)


def test_the_server_is_killed_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is lost or there twice, and each absence is one line."""
    monkeypatch.setattr(redis_source, "COUNT", 4)
    with running_server() as server:
        feed(server, "in", entries(30, labelled=0.5))
        run(server, tmp_path, "whole")
        answer, seen = Answers.answer, []

        def server_dies(self: Answers, sample: Any) -> dict[str, Any]:
            seen.append(sample)
            if len(seen) in (6, 14):  # 4 entries are fetched at a time
                server.kill()
                threading.Timer(0.4, server.start).start()
            return answer(self, sample)

        monkeypatch.setattr(Answers, "answer", server_dies)
        capsys.readouterr()
        run(server, tmp_path, "gone")
        said = [line for line in capsys.readouterr().err.splitlines() if "waits for the server" in line]
        assert len(said) == 2
        assert first_difference(state_of(tmp_path / "gone.ckpt"), state_of(tmp_path / "whole.ckpt")) is None
        assert answers(server, "out-gone") == answers(server, "out-whole")


def test_follow_waits_for_entries_and_for_the_server(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    with running_server() as server:
        child = forked(lambda: run(server, tmp_path, "a", "--follow"), tmp_path / "log")
        assert waited(lambda: "waits for it" in (tmp_path / "log").read_text())
        feed(server, "in", entries(3))
        assert waited(lambda: server.client.xlen("out-a") == 3)
        server.kill()
        assert waited(lambda: "waits for the server" in (tmp_path / "log").read_text())
        server.start()
        feed(server, "in", entries(4))
        assert waited(lambda: server.client.xlen("out-a") == 7)
        os.kill(child, signal.SIGTERM)
        assert end_of(child) == 143
        assert state_of(tmp_path / "a.ckpt")["stream"]["input"]["count"] == 7


def test_a_signal_while_the_server_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that could not be written belongs to no state: its sample is learned from again."""
    with running_server() as server:
        feed(server, "in", entries(12))
        run(server, tmp_path, "whole")
        answer, seen = Answers.answer, []

        def server_dies(self: Answers, sample: Any) -> dict[str, Any]:
            seen.append(sample)
            if len(seen) == 8:
                server.kill()
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            return answer(self, sample)

        with monkeypatch.context() as patch:
            patch.setattr(Answers, "answer", server_dies)
            with pytest.raises(SystemExit) as stopped:
                run(server, tmp_path, "a")
        assert stopped.value.code == 143
        assert state_of(tmp_path / "a.ckpt")["stream"]["input"]["count"] == 5
        server.start()
        run(server, tmp_path, "a")
        assert first_difference(state_of(tmp_path / "a.ckpt"), state_of(tmp_path / "whole.ckpt")) is None
        assert answers(server, "out-a") == answers(server, "out-whole")


def test_entries_deleted_unread_are_counted(
    server: RedisProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(server, "in", entries(6))
    server.client.xtrim("in", maxlen=4, approximate=False)  # before the group began: not lost to it
    run(server, tmp_path)
    assert "entries after" not in capsys.readouterr().err
    feed(server, "in", entries(5))
    server.client.xtrim("in", maxlen=2, approximate=False)
    run(server, tmp_path)
    assert "3 entries after" in capsys.readouterr().err
    ids = [server.client.xadd("in", {"a": "1"}) for _ in range(3)]
    server.client.xdel("in", ids[1])
    run(server, tmp_path)
    assert "1 entries after" in capsys.readouterr().err
    server.client.xtrim("in", maxlen=0, approximate=False)
    run(server, tmp_path)
    printed = capsys.readouterr().err
    assert "entries after" not in printed
    assert "4 lost" in printed
    assert len(rows(server)) == 8


def test_a_group_or_a_stream_that_is_deleted(
    server: RedisProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    feed(server, "in", entries(3))
    run(server, tmp_path)
    feed(server, "in", entries(2))
    server.client.xgroup_destroy("in", "a")
    run(server, tmp_path)
    assert "was gone; it is made again after entry" in capsys.readouterr().err
    assert len(rows(server)) == 5
    server.client.delete("in")
    options = ["--input", server.url("in", group="a"), "--output", server.url("out-a")]
    assert "there is no stream 'in'" in refused("learn", "--state", str(tmp_path / "a.ckpt"), *options)
    feed(server, "in", entries(2))
    run(server, tmp_path)
    assert len(rows(server)) == 7


def test_a_server_that_has_lost_entries(
    server: RedisProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 7):
        server.client.xadd("in", {"a": "1", "label": "pos"}, id=f"{number}-0")
    run(server, tmp_path)
    server.client.delete("in")
    for number in range(1, 4):
        server.client.xadd("in", {"a": "1", "label": "pos"}, id=f"{number}-0")
    capsys.readouterr()
    run(server, tmp_path)
    assert "ends at 3-0, before 6-0, up to which the state has learned" in capsys.readouterr().err
    server.client.xadd("in", {"a": "1", "label": "pos"}, id="7-0")
    run(server, tmp_path)
    assert [row["entry"] for row in rows(server)] == [f"{number}-0" for number in range(1, 8)]


def test_something_else_reads_the_group(server: RedisProcess, tmp_path: Path, refused: Callable[..., str]) -> None:
    feed(server, "in", entries(3))
    run(server, tmp_path)
    options = ["--input", server.url("in", group="a"), "--output", "-", "--classes", "neg", "pos"]
    start = ["learn", "--config", str(tmp_path / "own.yaml"), *options]
    said = refused(*start, "--state", str(tmp_path / "other.ckpt"))
    assert "has the consumer 'filtune-" in said
    assert "group=NAME" in said
    source = RedisSource(server.url("in", group="b"), redis_source.SourceOptions())
    next(iter(source))
    server.client.xadd("in", {"a": "1"})
    server.client.xreadgroup("b", "me", {"in": ">"}, count=2)
    with pytest.raises(ValueError, match="something else reads 'in'"):
        list(source)


def test_refusals(
    server: RedisProcess, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.client.set("text", "x")
    feed(server, "in", entries(2))
    server.client.xadd("taken", {"a": "1"})
    start = ["learn", "--config", str(config(tmp_path)), "--state", str(tmp_path / "s.ckpt")]
    begin = f"unix://{server.socket}"
    for address, words in [
        (f"{begin}?stream=no", "there is no stream 'no'"),
        (begin, "names no stream; append ?stream=NAME"),
        (f"{begin}?stream=text", "is no stream but another type"),
        (f"{begin}?stream=in&colour=red", "an option of the address is unknown ('colour')"),
        ("redis://:secret@localhost:1/0?stream=in", "'in' at localhost:1/0: Error 111 connecting to localhost:1"),
        ("redis://localhost:x/0?stream=in", "Port could not be cast"),
        (f"unix://u:secret@{server.socket}?stream=in", "invalid username-password pair"),
    ]:
        said = refused(*start, "--input", address, "--output", "-")
        assert words in said
        assert "secret" not in said
    for address, words in [
        (f"{begin}?stream=taken", "has entries that are not of this state"),
        (f"{begin}?stream=text", "is no stream but another type"),
        (f"{begin}?stream=new&maxlen=x", "maxlen must be a number of entries, got 'x'"),
    ]:
        assert words in refused(*start, "--input", f"{begin}?stream=in", "--output", address)
    run(server, tmp_path)
    again = ["learn", "--state", str(tmp_path / "a.ckpt")]
    other = refused(*again, "--input", server.url("taken", group="a"), "--output", server.url("out-a"))
    assert "the state has read stream 'in' as group 'a', not 'taken'" in other
    for output in (server.url("taken"), str(tmp_path / "file.jsonl")):
        said = refused(*again, "--input", server.url("in", group="a"), "--output", output)
        assert "--output: the state has written to" in said
    server.client.xadd("out-a", {"a": "1"})
    said = refused(*again, "--input", server.url("in", group="a"), "--output", server.url("out-a"))
    assert "has an entry of something else" in said


def test_a_password(tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server("--requirepass", "pass word") as server:
        said = refused("learn", "--state", str(tmp_path / "s.ckpt"), "--config", "x", "--input", server.url("in"))
        assert "FILTUNE_REDIS_PASSWORD" in said
        monkeypatch.setenv(redis_server.PASSWORD, "pass word")
        assert "there is no stream 'in'" in refused(
            "learn", "--state", str(tmp_path / "s.ckpt"), "--config", "x", "--input", server.url("in")
        )


def test_answers_to_a_file_and_from_a_file(server: RedisProcess, tmp_path: Path) -> None:
    feed(server, "in", entries(8))
    learn(tmp_path, "a", "--input", server.url("in"), "--output", str(tmp_path / "out"))
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [row["entry"].encode() for row in lines] == [id for id, _ in answers(server, "in")]
    (tmp_path / "in").write_text("".join(f'{{"a": {i}, "label": "pos"}}\n' for i in range(7)))
    learn(tmp_path, "b", "--input", str(tmp_path / "in"), "--output", server.url("out", maxlen="5"))
    assert [id for id, _ in answers(server, "out")][-1] == b"7-0"
