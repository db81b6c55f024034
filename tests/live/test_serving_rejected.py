"""A label that was accepted and is refused when it is learned: its id is used up, and nothing waits under it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from filtune.datamodules import Task
from filtune.live import labels
from filtune.live.serving.app import create_app
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import open_state
from starlette.testclient import TestClient

from tests.live.serving_runs import HOST, differences, digits, new_learner, serving

XS, _ = digits()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gate before the learner: what comes meanwhile is accepted by what is known before."""
    gate, apply = threading.Event(), LearnerService._apply
    monkeypatch.setattr(LearnerService, "_apply", lambda self, *each: (gate.wait(60), apply(self, *each))[1])
    return gate


def in_background(post: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(post().json()))
    thread.start()
    return thread, answers


def test_a_label_that_is_refused_when_it_is_learned(tmp_path: Path, held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two new classes are accepted where there is room for one; which of them is learned, the log decides."""
    monkeypatch.setattr(labels, "MOST_CLASSES", 3)
    new_learner(classes=["a", "b"], new_classes="add", max_pending=3).save(tmp_path / "start.ckpt")
    service = LearnerService(open_state(tmp_path / "start.ckpt", None))
    with TestClient(create_app(service), base_url=HOST, raise_server_exceptions=False) as client:
        for i in range(3):
            assert client.post("/predict", json={"x": XS[i], "id": i}).json()["outcome"] == "waiting"
        assert client.post("/feedback", json={"id": 0, "y": "c"}).json() == {"outcomes": ["accepted"]}
        labels_sent = {"labels": [{"id": 1, "y": "d"}, {"id": 2, "y": "a"}]}
        thread, answers = in_background(lambda: client.post("/feedback_many?learned=true", json=labels_sent))
        while service.backlog < 6:
            thread.join(0.01)
        assert client.post("/learn", json={"x": XS[3], "y": "e", "id": 3}).json() == {"outcomes": ["accepted"]}
        held.set()
        thread.join(60)
        assert answers == [{"outcomes": ["rejected", "accepted"]}]
        assert client.post("/feedback?learned=true", json={"id": 1, "y": "a"}).json() == {"outcomes": ["duplicate"]}
        assert client.post("/learn?learned=true", json={"x": XS[3], "y": "a", "id": 3}).json() == {
            "outcomes": ["duplicate"]
        }
        learner, ids = service.learner, service.state.ids
        assert learner.metrics["samples"] == 2
        assert learner.classes == ["a", "b", "c"]
        assert ids.state()["waiting"] == [row[0] for row in learner.pending.state()["waiting"]] == []
        assert learner.pending.dropped == 1
        exposed = client.get("/metrics").text
        assert 'filtune_operations_total{kind="label",outcome="rejected"} 1.0' in exposed
        assert "filtune_rejected_total 2.0" in exposed
        assert "'e' would be class 4" in client.get("/status").json()["rejected"]
        service._save = lambda: None  # type: ignore[method-assign]  # as after a kill
    with serving(tmp_path) as client:  # refused again
        assert client.service.replayed == 9
        assert differences(client.service.learner, learner) == []
        assert client.service.state.ids.state() == ids.state()


def test_as_many_wait_as_are_known_to_wait(tmp_path: Path, held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample that stayed in the buffer would have taken the place of another, whose label was then lost."""
    monkeypatch.setattr(labels, "MOST_CLASSES", 2)
    held.set()
    new_learner(classes=["a", "b"], new_classes="add", max_pending=2).save(tmp_path / "start.ckpt")
    monkeypatch.setattr("filtune.live.serving.service.check_label", lambda *_: None)
    with serving(tmp_path) as client:
        for i in range(2):
            client.post("/predict", json={"x": XS[i], "id": i})
        assert client.post("/feedback?learned=true", json={"id": 1, "y": "z"}).json() == {"outcomes": ["rejected"]}
        client.post("/predict", json={"x": XS[2], "id": 2})
        assert client.post("/feedback?learned=true", json={"id": 0, "y": "a"}).json() == {"outcomes": ["accepted"]}
        assert client.service.learner.metrics["samples"] == 1


def test_a_number_without_a_finite_loss_is_refused_before(tmp_path: Path) -> None:
    task = Task("own", "regression", 1, (), "image", (1, 8, 8), ("pearson",), target_scaling=False)
    new_learner(kind=task, classes=()).save(tmp_path / "start.ckpt")
    with serving(tmp_path) as client:
        answer = client.post("/learn", json={"x": XS[0], "y": 1e25})
        assert answer.status_code == 422
        assert answer.json() == {"error": "y: the loss of the label 1e+25 is not finite; give it in other units"}
        assert client.service.state.journal.end == 0
