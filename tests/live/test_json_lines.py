"""``filtune learn``: JSON lines in, a line for each out, and nothing twice after a stop."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.lightning_modules import signals
from filtune.live.answers import Answers
from filtune.live.sources import SourceOptions
from filtune.live.sources.lines import Lines

from filtune.cli import main
from tests.conftest import WORDS


def rows(count: int) -> list[dict[str, Any]]:
    return [{"text": f"{WORDS[i % 9]} {WORDS[i % 7]}", "label": ["ham", "spam"][i % 2], "id": i} for i in range(count)]


def write(path: Path, content: list[Any]) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in content))
    return path


@pytest.fixture
def start(tmp_path: Path, tiny_bert: Path) -> list[str]:
    """SourceOptions of a learner of texts."""
    config = tmp_path / "own.yaml"
    config.write_text(
        f"model: {{backbone: {{name: {tiny_bert}, adapter: head}}, on_divergence: rewind}}\n"
        "optimizer: {class_path: filtune.LoKO}\n"
    )
    return ["learn", "--config", str(config), "--classes", "ham", "spam", "--save_interval", "4"]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_has_its_answer(tmp_path: Path, start: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        *rows(3),
        {"text": "bad film", "id": "late"},
        {"text": "good film"},
        {"id": "late", "label": "spam"},
        {"id": "late", "label": "spam"},
        "{no json}\n",
        "[1]\n",
        {"text": "", "label": "ham"},
        {"text": "good", "label": "eggs"},
        {"label": "ham"},
        '{"text": "no end of the line", "label": "ham"}',
    ]
    main([*start, "--state", str(tmp_path / "s.ckpt"), "--input", str(write(tmp_path / "in", lines))])
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["line"] for row in found] == list(range(1, 14))
    assert [row.get("learned") for row in found] == [True] * 3 + [False, False, True, False] + [None] * 5 + [True]
    assert all(row["prediction"] in ("ham", "spam") and 0.5 <= row["probability"] <= 1 for row in found[:5])
    assert [row["error"].partition(":")[0] for row in found[7:9]] == [
        "no JSON",
        "no JSON object with the columns of a sample",
    ]
    assert "none of them empty" in found[9]["error"]
    assert "not among the classes ham, spam" in found[10]["error"]
    assert "neither 'text' nor the label of an earlier id" in found[11]["error"]
    assert "13 samples read, 5 learned from, 5 bad" in printed.err


def state(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two states are the same, bit for bit."""
    tensors = [each["state_dict"] | each["optimizer_states"][0]["state"]["filter"] for each in (first, second)]
    same = all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    return same and all(repr(first[name]) == repr(second[name]) for name in ("live", "stream", "global_step"))


@pytest.mark.parametrize("killed_at", [2, 9])
def test_a_killed_command_goes_on_as_if_nothing_had_been(
    tmp_path: Path, start: list[str], killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned from once, answered once: state and output are those of an uninterrupted command."""
    source = write(tmp_path / "in", [*rows(8), {"text": "great", "id": "x"}, {"id": "x", "label": "ham"}, *rows(2)])

    def learn(name: str) -> None:
        main(
            [
                *start,
                "--state",
                str(tmp_path / f"{name}.ckpt"),
                "--output",
                str(tmp_path / name),
                "--input",
                str(source),
            ]
        )

    learn("whole")

    class Killed(BaseException):
        """Nothing is saved for it."""

    answer = Answers.answer
    seen: list[bytes | None] = []

    def dies(self: Answers, line: bytes | None) -> dict[str, Any]:
        seen.append(line)
        if len(seen) == killed_at:
            raise Killed
        return answer(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(Answers, "answer", dies)
        with pytest.raises(Killed):
            learn("cut")
    learn("cut")
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert equal(state(tmp_path / "cut.ckpt"), state(tmp_path / "whole.ckpt"))
    learn("cut")  # there is nothing more
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_file_that_grows_is_followed(tmp_path: Path, start: list[str]) -> None:
    """A line is answered when its end is written; a signal stops the wait, and the state is saved."""
    source, output = write(tmp_path / "in", rows(2)), tmp_path / "out"
    seen = []

    def client() -> None:
        seen.append(waited(lambda: output.exists() and len(read(output)) == 2))
        with source.open("a") as file:
            file.write('{"text": "good film", ')
            file.flush()
            time.sleep(0.3)
            seen.append(len(read(output)) == 2)
            file.write('"label": "ham"}\n')
        seen.append(waited(lambda: len(read(output)) == 3))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=client).start()
    own = ["--state", str(tmp_path / "s.ckpt"), "--follow", "--input", str(source), "--output", str(output)]
    with pytest.raises(SystemExit) as stopped:
        main([*start, *own])
    assert stopped.value.code == 143
    assert seen == [True] * 3
    assert state(tmp_path / "s.ckpt")["stream"]["input"]["count"] == 3


def waited(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_standard_input(tmp_path: Path, start: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """It goes on with the lines that come, or skips as many as were read where they come again."""

    def pipe(lines: list[dict[str, Any]], *options: str) -> list[int]:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        main([*start, "--state", str(tmp_path / "s.ckpt"), *options])
        return [json.loads(line)["line"] for line in capsys.readouterr().out.splitlines()]

    assert pipe(rows(3)) == [1, 2, 3]
    assert pipe(rows(2)) == [4, 5]
    assert pipe(rows(7), "--skip_read") == [6, 7]


def test_a_line_without_bounds_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filtune.live.sources import lines

    monkeypatch.setattr(lines, "LONGEST", 10)
    source = tmp_path / "in"
    source.write_bytes(b"short\n" + b"x" * 35 + b"\nagain\n" + b"y" * 10)
    found = Lines(str(source), SourceOptions())
    assert list(found) == [b"short\n", None, b"again\n"]
    assert found.position == source.stat().st_size - 10  # the last line may go on
    signals.defer(False)


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    source = write(tmp_path / "in", rows(2))
    found = iter(Lines(str(source), SourceOptions(follow=True)))
    next(found), next(found)
    threading.Timer(0.1, lambda: os.truncate(source, 5)).start()
    with pytest.raises(ValueError, match="has become shorter than what was read of it"):
        next(found)
    signals.defer(False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "no.jsonl"], "--input: there is no file 'no.jsonl'"),
        (["--follow"], "--follow: standard input is read to its end anyway"),
        (["--save_interval", "0"], "--save_interval: must be at least 1, got 0"),
        (["--ckpt_path", "runs"], "--state: .* is not there; give one of --ckpt_path and --config"),
        (["--columns", "a", "b", "c"], "columns: a list of at most 2 names"),
    ],
)
def test_wrong_options(
    tmp_path: Path, start: list[str], options: list[str], words: str, refused: Callable[..., str]
) -> None:
    import re

    assert re.search(words, refused(*start, "--state", str(tmp_path / "s.ckpt"), *options))


def test_a_state_of_another_stream(tmp_path: Path, start: list[str], refused: Callable[..., str]) -> None:
    source, own = (
        write(tmp_path / "in", rows(3)),
        ["--state", str(tmp_path / "s.ckpt"), "--output", str(tmp_path / "out")],
    )
    main([*start, *own, "--input", str(source)])
    other = write(tmp_path / "other", [*rows(4)[1:], *rows(4)])
    assert "is not the file that the state has read" in refused(*start, *own, "--input", str(other))
    (tmp_path / "out").write_text("")
    assert "has 0 bytes, the state has written" in refused(*start, *own, "--input", str(source))
    fresh = ["--state", str(tmp_path / "t.ckpt"), "--output", str(other)]
    assert "has content that is not of this state" in refused(*start, *fresh, "--input", str(source))
