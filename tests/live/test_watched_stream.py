"""``filtune learn`` that watches: alarms, their exit status and webhook, rollback, and learners side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.live import core
from filtune.live.answers import Answers
from filtune.live.watching import reporting, webhook
from filtune.live.watching.reporting import ALARM_STATUS

from filtune import OnlineLearner
from filtune.cli import main
from tests.live.serving_runs import flat
from tests.live.test_webhook import Receiver
from tests.live.watched_tables import new_table_learner, stream

RULE = "accuracy < 0.5 until 0.7 after 8"
ALARMS = ["--alarm", RULE, "--window", "8"]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a learner of tables, and an input whose labels are exchanged after 22 lines."""
    monkeypatch.setattr(core, "KEEP_INTERVAL", 5)
    monkeypatch.setattr(webhook, "FIRST_WAIT", 0.01)
    new_table_learner().save(tmp_path / "start.ckpt")
    write(tmp_path / "in", [{**x, "label": y} for x, y in stream(22, 12)])
    return ["learn", "--ckpt_path", str(tmp_path / "start.ckpt"), "--save_interval", "7"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def places(folder: Path, name: str) -> list[str]:
    files = {"state": f"{name}.ckpt", "output": name, "input": "in"}
    return [word for option, file in files.items() for word in (f"--{option}", str(folder / file))]


def run(*words: str) -> int:
    """The exit status of a command."""
    try:
        main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(first: Path, second: Path) -> list[str]:
    """Names of what differs between two states by a bit, but for what the ids of events begin with."""
    one, two = (flat(torch.load(path, weights_only=True)) for path in (first, second))
    assert one.keys() == two.keys()
    equal = {
        name: torch.equal(a, two[name]) if isinstance(a, torch.Tensor) else repr(a) == repr(two[name])
        for name, a in one.items()
    }
    return [name for name, is_equal in equal.items() if not is_equal and not name.endswith("options.stream")]


def test_an_alarm_is_a_line_and_a_field(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*options, *places(tmp_path, "out"), *ALARMS) == 0
    found = [(row["line"], alarm) for row in read(tmp_path / "out") for alarm in row.get("alarms", [])]
    late = [(line, alarm) for line, alarm in found if line > 22]
    line, alarm = late[0]
    assert (alarm["rule"], alarm["status"], alarm["step"], alarm["value"]) == (RULE, "firing", line, 0.375)
    assert f"filtune: alarm: {RULE} (accuracy is 0.375, step {line}, line {line})\n" in capsys.readouterr().err
    assert (line, len(late)) == (found[-1][0], 1) or late[1][1]["status"] == "cleared"


def test_an_alarm_ends_the_command_after_its_state_is_saved(tmp_path: Path, options: list[str]) -> None:
    """And the next start goes on, until another one comes on."""
    words = [*options, *places(tmp_path, "out"), *ALARMS, "--stop_on_alarm"]
    statuses = []
    while not statuses or statuses[-1] == ALARM_STATUS:
        statuses.append(run(*words))
        rows = read(tmp_path / "out")
        assert torch.load(tmp_path / "out.ckpt", weights_only=True)["stream"]["input"]["count"] == len(rows)
        assert (statuses[-1] == 0) == (len(rows) == 34)
        if statuses[-1]:
            assert rows[-1]["alarms"][-1]["status"] == "firing"
    assert ALARM_STATUS in statuses
    assert run(*options, *places(tmp_path, "whole"), *ALARMS) == 0
    cut, whole = (
        [{**row, "alarms": [alarm["status"] for alarm in row.get("alarms", [])]} for row in read(tmp_path / name)]
        for name in ("out", "whole")
    )
    assert cut == whole


def test_a_killed_command_watches_as_if_nothing_had_been(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """State, output and webhook are those of an uninterrupted command: no alarm is lost or sent twice.

    The kills are before the first alarm, right after one that was sent, and in between.
    """
    receiver = Receiver()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    words = [*options, *ALARMS, "--alarm", "drift", "--rollback_on_alarm", "--against", "loko"]
    assert run(*words, *places(tmp_path, "whole"), "--webhook", receiver.url) == 0
    sent, receiver.taken = receiver.taken, []

    class Killed(BaseException):
        """Nothing is saved for it."""

    answer = Answers.answer

    def dies(self: Answers, sample: Any) -> dict[str, Any]:
        if self.learner.steps == kill["at"]:
            raise Killed
        return answer(self, sample)

    fires = [each["line"] for each in sent if each["status"] == "firing"]
    kill: dict[str, int] = {}
    for step in (3, fires[0] + 1, fires[-1]):
        kill["at"] = step
        with monkeypatch.context() as patch:
            patch.setattr(Answers, "answer", dies)
            with pytest.raises(Killed):
                main([*words, *places(tmp_path, "cut"), "--webhook", receiver.url])
    assert run(*words, *places(tmp_path, "cut"), "--webhook", receiver.url) == 0
    receiver.server.shutdown()
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert same(tmp_path / "cut.ckpt", tmp_path / "whole.ckpt") == []
    assert any(each.get("rolled_back_to") is not None for each in sent)
    assert [each["id"] for each in receiver.taken] == [each["id"] for each in sent]
    assert [each["line"] for each in sent] == [
        row["line"] for row in read(tmp_path / "cut") for _ in row.get("alarms", [])
    ]
    assert {each["stream"] for each in sent} == {"whole.ckpt"}


def test_rollback_by_hand(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*options, *places(tmp_path, "out"), "--keep_states", "2"]
    assert run(*words) == 0
    state = tmp_path / "out.ckpt"
    before = torch.load(state, weights_only=True)
    capsys.readouterr()
    assert run("learn", "--state", str(state), "--rollback") == 0
    assert (
        f"rolled back to the state of step 30; {state} goes on at its position, after step 34"
        in capsys.readouterr().err
    )
    assert run("learn", "--state", str(state), "--rollback") == 0
    assert "rolled back to the state of step 25" in capsys.readouterr().err
    after = torch.load(state, weights_only=True)
    assert after["stream"] == before["stream"]
    assert after["live"]["monitor"]["counts"][0] == 2
    assert OnlineLearner.load(state).steps == 34
    write(tmp_path / "in", [{**x, "label": y} for x, y in stream(22, 14)])
    assert run(*words) == 0
    assert [row["line"] for row in read(tmp_path / "out")] == list(range(1, 37))


def test_learners_side_by_side(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "FIRST_TABLE", 10)
    words = [*options, *places(tmp_path, "out"), "--against", "loko", "--against", "adamw lr=0.001"]
    assert run(*words) == 0
    printed = capsys.readouterr().err
    assert [line for line in printed.splitlines() if "compared on" in line] == [
        f"filtune: compared on {count} predictions" for count in (10, 20, 34)
    ]
    for row in read(tmp_path / "out"):
        assert list(row["against"]) == ["loko", "adamw lr=0.001"]
        assert all(set(each) == {"prediction", "probability", "entropy"} for each in row["against"].values())
    write(tmp_path / "in", [{**x, "label": y} for x, y in stream(22, 14)])
    assert run("learn", *places(tmp_path, "out")) == 0  # the learners of the state go on
    assert "compared on 36 predictions" in capsys.readouterr().err
    assert len(read(tmp_path / "out")[-1]["against"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alarm", "accurac < 1"], "there is no quantity 'accurac'; choose from accuracy, f1, matthews, log_loss, "),
        (["--alarm", "accuracy < high"], "alarm 'accuracy < high': 'high' is no number"),
        (["--alarm", "no.yaml"], "--alarm no.yaml: there is no such file"),
        (["--webhook", "hook"], "--webhook: an address of http or https is needed, got 'hook'"),
        (["--webhook", "http://localhost/"], "--webhook: there is no alarm; give one by --alarm"),
        (["--stop_on_alarm"], "--stop_on_alarm: there is no alarm"),
        (["--rollback_on_alarm"], "rollback_on_alarm: there is no alarm"),
        (["--window", "0"], "window: must be at least one prediction"),
        (["--keep_states", "-1"], "keep_states: must be a number of states"),
        (["--against", "adamm"], "against 'adamm': there is no such optimizer; did you mean adamw"),
        (["--rollback"], "--rollback: there is no state"),
    ],
)
def test_bad_options_are_refused_before_anything_is_learned(
    tmp_path: Path, options: list[str], words: list[str], message: str, refused: Callable[..., str]
) -> None:
    assert message in refused(*options, *places(tmp_path, "out"), *words)
    assert not (tmp_path / "out.ckpt").exists()


def test_a_state_has_the_learners_that_it_began_with(
    tmp_path: Path, options: list[str], refused: Callable[..., str]
) -> None:
    write(tmp_path / "in", [{**x, "label": y} for x, y in stream(3)])
    assert run(*options, *places(tmp_path, "out"), "--against", "loko") == 0
    line = refused(*options, *places(tmp_path, "out"), "--against", "adamw")
    assert "a learner that joins later has another start; the state has loko: name the same" in line
    assert "no state is kept to go back to" in refused("learn", "--state", str(tmp_path / "out.ckpt"), "--rollback")


def test_the_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for its waiting for more lines."""
    from tests.docs.pages import DOCS
    from tests.docs.shell import commands

    command = next(commands(DOCS / "watching.md"))
    monkeypatch.chdir(tmp_path)
    new_table_learner().save("start.ckpt")
    write(Path("messages.jsonl"), [{**x, "label": y} for x, y in stream(8)])
    words = ["start.ckpt" if word == "RUN" else word for word in command.words[1:] if word != "--follow"]
    assert run(*words) == 0
    assert len(read(Path("predictions.jsonl"))) == 8


def test_options_that_are_added_are_saved_at_once(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that after a kill the same alarms have the same ids, and are posted once."""
    write(tmp_path / "in", [{**x, "label": y, "id": i} for i, (x, y) in enumerate(stream(22, 12))][:3])
    words = [*options, *places(tmp_path, "out")]
    assert run(*words) == 0
    write(tmp_path / "in", [{**x, "label": y, "id": i} for i, (x, y) in enumerate(stream(22, 12))])

    class Killed(BaseException): ...

    def dies(self: Answers, sample: Any) -> dict[str, Any]:
        raise Killed

    def saved() -> tuple[dict[str, Any], int]:
        found = torch.load(tmp_path / "out.ckpt", weights_only=True)
        return found["live"]["monitor"]["options"], found["stream"].get("ids", {}).get("most", 0)

    with monkeypatch.context() as patch:
        patch.setattr(Answers, "answer", dies)
        for more in (ALARMS, ["--unique_ids", "40"], []):
            with pytest.raises(Killed):
                main([*words, *more])
            if more == ALARMS:
                first = saved()[0]["stream"]
    assert first
    assert saved()[0]["stream"] == first
    assert saved()[1] == 40
    assert run(*words) == 0
    ids = [alarm["id"] for row in read(tmp_path / "out") for alarm in row.get("alarms", [])]
    assert ids
    assert all(id.startswith(first) for id in ids)
    assert saved()[1] == 40
