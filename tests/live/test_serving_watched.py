"""A service that watches: alarms, rollback and the figures of its window, also after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from filtune.live import core
from filtune.live.serving.app import create_app
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import open_state
from starlette.testclient import TestClient

from tests.live.serving_runs import HOST, differences, learn
from tests.live.test_webhook import Receiver

WATCHED: dict[str, Any] = {
    "alarms": ["accuracy < 0.9 after 6"],
    "window": 6,
    "keep_states": 3,
    "rollback_on_alarm": True,
}


@pytest.fixture(autouse=True)
def _every_four_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "KEEP_INTERVAL", 4)


def opened(folder: Path, monitor: dict[str, Any] | None = None, save_interval: int = 5, **options: Any) -> TestClient:
    state = open_state(folder / "start.ckpt", None, monitor=monitor)
    service = LearnerService(state, save_interval=save_interval, **options)
    client = TestClient(create_app(service), base_url=HOST)
    client.service = service  # type: ignore[attr-defined]
    return client


def test_alarms_and_rollback_are_replayed_bit_for_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each alarm is posted once, though it is raised again when the log is read after the kill."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    receiver = Receiver()
    with opened(folder, WATCHED, save_interval=100, webhook=receiver.url) as client:  # all is read from the log
        assert learn(client, range(3)) == ["accepted"] * 3
        assert client.post("/rollback").json() == {"outcomes": ["accepted"]}
        learn(client, range(3, 12))
        first = client.service.learner  # type: ignore[attr-defined]
        assert first.monitor.rollbacks == 2
        receiver.wait(1)
        killed = shutil.copytree(folder, folder.parent / f"{folder.name}-killed")
        with opened(Path(killed), webhook=receiver.url) as again:
            assert again.service.replayed  # type: ignore[attr-defined]
            assert differences(first, again.service.learner) == []  # type: ignore[attr-defined]
    receiver.server.shutdown()
    assert [each["rolled_back_to"] for each in receiver.taken] == [4]
    assert receiver.taken[0]["operation"] == 8  # the options, three samples, the rollback, and three samples


def test_what_is_watched_is_shown(folder: Path) -> None:
    with opened(folder, {**WATCHED, "rollback_on_alarm": None}) as client:
        learn(client, range(8))
        status = client.get("/status").json()["watched"]
        assert status["predictions"] == 6
        assert set(status["window"]) >= {"accuracy", "log_loss", "calibration_error", "missing"}
        assert [alarm["firing"] for alarm in status["alarms"]] == [True]
        text = client.get("/metrics").text
        assert 'filtune_alarm{rule="accuracy < 0.9 after 6"} 1.0' in text
        assert f"filtune_window_accuracy {status['window']['accuracy']}" in text
        assert "filtune_window_missing 0.0" in text
    with opened(folder) as client:  # the options stay until others are given
        assert client.get("/status").json()["watched"] == status
    with opened(folder, {"alarms": []}) as client:
        assert client.get("/status").json()["watched"]["alarms"] == []


def test_without_a_kept_state_there_is_nothing_to_go_back_to(folder: Path) -> None:
    with opened(folder) as client:
        answer = client.post("/rollback")
        assert (answer.status_code, answer.json()["error"]) == (
            409,
            "no state is kept to go back to; start the service with --keep_states",
        )
        learn(client, range(2))


def test_a_rollback_needs_the_token(folder: Path) -> None:
    service = LearnerService(open_state(folder / "start.ckpt", None))
    with TestClient(create_app(service, "t" * 16), base_url=HOST) as client:
        assert client.post("/rollback").status_code == 401
        assert client.post("/rollback", headers={"Authorization": "Bearer " + "t" * 16}).status_code == 409


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"monitor": {"alarms": ["accurac < 1"]}}, "there is no quantity 'accurac'"),
        ({"webhook": "http://localhost/"}, "--webhook: there is no alarm"),
    ],
)
def test_bad_options_leave_the_folder_free(folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        opened(folder, **options)
    opened(folder).service.close()  # type: ignore[attr-defined]


def test_alarms_of_the_log_have_the_operation_at_which_they_came(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where they are raised by the log that is read, and were not posted before."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    rules = {"alarms": ["accuracy < 0.9 after 3", "accuracy < 0.95 after 6", "log_loss > 0.01 after 9"], "window": 9}
    with opened(folder, rules, save_interval=100) as client:
        learn(client, range(12))
        killed = shutil.copytree(folder, folder.parent / f"{folder.name}-killed")
    said = [line for line in capsys.readouterr().err.splitlines() if "alarm" in line]
    assert len(said) >= 3
    receiver = Receiver()
    with opened(Path(killed), webhook=receiver.url) as again:
        assert again.service.replayed == 13  # type: ignore[attr-defined]
        receiver.wait(len(said))
    receiver.server.shutdown()
    assert [line for line in capsys.readouterr().err.splitlines() if "alarm" in line] == said
    # the first operation is that of the options
    fired = {each["rule"]: each["operation"] for each in receiver.taken if each["status"] == "firing"}
    assert sorted(fired.values()) == [4, 7, 10]
