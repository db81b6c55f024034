"""``filtune serve`` within one process: answers, refusals, access, limits, order, and what is kept."""

from __future__ import annotations

import base64
import errno
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filtune.live.serving.access import Rates
from filtune.live.serving.monitor import ServiceMonitor
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import SNAPSHOT
from filtune.live.serving.tickets import Answer
from filtune.optimizers import LoKO

from filtune import OnlineLearner
from tests.live.serving_runs import differences, digits, learn, new_learner, serving

XS, YS = digits()


def test_it_is_the_learner_itself(folder: Path) -> None:
    """Predictions, late labels and learning are those of the learner, and so is all of its state."""
    reference = new_learner()
    with serving(folder) as client:
        for i in range(4):
            answer = client.post("/predict", json={"x": XS[i], "id": f"late {i}"}).json()
            assert answer["outcome"] == "waiting"
            assert answer["prediction"] == reference.predict_one(base64.b64decode(XS[i]), id=f"late {i}")
        assert learn(client, range(4, 12)) == ["accepted"] * 8
        for i in range(4, 12):
            reference.learn_one(base64.b64decode(XS[i]), YS[i])
        for i in (2, 0, 3):
            answer = client.post("/feedback", json={"id": f"late {i}", "y": YS[i]})
            assert (answer.status_code, answer.json()) == (200, {"outcomes": ["accepted"]})
            assert reference.feedback(f"late {i}", YS[i])
        assert learn(client, range(12, 13)) == ["accepted"]
        reference.learn_one(base64.b64decode(XS[12]), YS[12])
        found = client.post("/predict_many", json={"samples": [{"x": x} for x in XS[:9]]}).json()["predictions"]
        files = [base64.b64decode(x) for x in XS[:9]]
        assert [each["prediction"] for each in found] == reference.predict_many(files)
        expected = reference.predict_proba_many(files)
        assert [each["probability"] for each in found] == [
            {str(name): value for name, value in row.items()} for row in expected
        ]
        assert differences(client.service.learner, reference) == []
        status = client.get("/status").json()
        assert status["metrics"] == reference.metrics
        assert [entry["label"] for entry in status["recent"] if entry["id"] == "late 2"] == [YS[2]]
        card = client.get("/card").text
        assert card.startswith("---\n")
        assert "LoKO" in card
        assert "lenet_small" in card
        exposed = client.get("/metrics").text
        assert 'filtune_operations_total{kind="learn",outcome="accepted"} 9.0' in exposed
        assert f"filtune_online_accuracy {reference.metrics['online_accuracy']}" in exposed
    assert differences(OnlineLearner.load(folder / "serving" / SNAPSHOT), reference) == []


KINDS: dict[str, tuple[dict[str, Any], list[Any], Any]] = {
    "regression": ({"kind": "regression", "classes": ()}, [1.5, -2, 3], "five"),
    "multilabel": ({"kind": "multilabel", "classes": ["round", "open"]}, [["round"], ["open"], []], ["square"]),
    "open classes": ({"classes": "open"}, ["a", "b", "a"], None),
    "columns": ({"columns": ["picture"]}, [1, 2, 1], 11),
}


@pytest.mark.parametrize("case", KINDS)
def test_every_kind_of_task_is_served(tmp_path: Path, case: str) -> None:
    options, labels, bad = KINDS[case]
    reference = new_learner(**options)
    reference.save(tmp_path / "start.ckpt")
    xs: list[Any] = [{"picture": x, "more": 1} for x in XS] if case == "columns" else XS
    with serving(tmp_path) as client:
        for i, y in enumerate(labels):
            answer = client.post("/learn?learned=true", json={"x": xs[i], "y": y})
            assert answer.status_code == 200, answer.text
            pixels = base64.b64decode(XS[i])
            reference.learn_one({"picture": pixels} if case == "columns" else pixels, y)
        assert client.post("/learn", json={"x": xs[0], "y": bad}).status_code == 422
        assert differences(client.service.learner, reference) == []
        answer = client.post("/predict", json={"x": xs[5], "id": "a"}).json()
        pixels = base64.b64decode(XS[5])
        expected = reference.predict_one({"picture": pixels} if case == "columns" else pixels)
        assert answer["prediction"] == expected
        assert (answer["probability"] is None) == (case == "regression")
        if case == "columns":
            for path in (__file__, "a.png", {"path": "a.png"}, {"bytes": XS[0]}, None, 3):
                assert client.post("/predict", json={"x": {"picture": path}}).status_code == 422
        assert client.get("/card").status_code == 200
        assert client.get("/metrics").status_code == 200


def test_a_table_is_served(tmp_path: Path) -> None:
    """Numbers by name, of which some are new and some are missing; after a restart it goes on bit for bit."""
    reference = OnlineLearner("classification", "mlp", LoKO, ["low", "high"])
    reference.save(tmp_path / "start.ckpt")
    rows = [{"a": i / 3, "b": -i, **({"late": i} if i > 4 else {})} for i in range(8)]
    with serving(tmp_path) as client:
        for i, row in enumerate(rows[:6]):
            body = {"x": row, "y": ("low", "high")[i % 2]}
            assert client.post("/learn?learned=true", json=body).status_code == 200
        for bad in ({"a": "text"}, {"a": [1]}, {"a": {}}, {"a": 10**400}, "a", 3, [[1]]):
            assert client.post("/predict", json={"x": bad}).status_code == 422, bad
        assert client.post("/predict", json={"x": rows[6], "id": 1}).status_code == 200
    with serving(tmp_path) as client:
        assert client.post("/feedback?learned=true", json={"id": 1, "y": "low"}).status_code == 200
        for i, row in enumerate(rows[:6]):
            reference.learn_one(row, ("low", "high")[i % 2])
        reference.predict_one(rows[6], id=1)
        reference.feedback(1, "low")
        assert differences(client.service.learner, reference) == []
        assert client.get("/status").json()["state"] == "waiting"


def test_what_is_shown_of_predictions_is_bounded() -> None:
    monitor, answer = ServiceMonitor(), Answer("a", {"a": 1.0})
    for number in range(500):
        monitor.predicted(["<b>text</b>" * 100], "text", [answer], [number % 70])
    recent = monitor.status()["recent"]
    assert len(recent) == len({entry["id"] for entry in recent}) == 50
    assert all(len(entry["x"]) < 90 for entry in recent)
    monitor.labelled(499 % 70, "b")
    assert monitor.status()["recent"][0]["label"] == "b"
    assert len(monitor._by_id) == 50


def test_duplicates_are_learned_once_also_after_a_restart(folder: Path) -> None:
    with serving(folder, save_interval=3) as client:
        assert learn(client, range(5)) == ["accepted"] * 5
        assert learn(client, range(3, 7)) == ["duplicate"] * 2 + ["accepted"] * 2
        client.post("/predict", json={"x": XS[7], "id": 7})
    with serving(folder) as client:
        assert learn(client, range(2, 7)) == ["duplicate"] * 5
        late = [client.post("/feedback?learned=true", json={"id": 7, "y": YS[7]}) for _ in range(2)]
        assert [each.json()["outcomes"] for each in late] == [["accepted"], ["duplicate"]]
        unknown = client.post("/feedback", json={"id": "7", "y": YS[7]})  # a text is another id than a number
        assert unknown.status_code == 404
        many = client.post("/feedback_many", json={"labels": [{"id": 7, "y": 1}, {"id": 8, "y": 1}]})
        assert many.json()["outcomes"] == ["duplicate", "unknown"]
        reference = new_learner()
        for i in range(7):
            reference.learn_one(base64.b64decode(XS[i]), YS[i])
        reference.predict_one(base64.b64decode(XS[7]), id=7)
        reference.feedback(7, YS[7])
        assert client.service.learner.metrics == reference.metrics


def test_what_was_acknowledged_and_not_learned_is_learned_after_a_restart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill: the log has it, the snapshot has not. Whole and half requests of a snapshot are replayed."""
    gate = threading.Event()
    apply = LearnerService._apply
    monkeypatch.setattr(LearnerService, "_apply", lambda self, each: (gate.wait(), apply(self, each))[1])
    with serving(folder) as client:
        for i in range(3):
            answer = client.post(
                "/learn_many", json={"samples": [{"x": XS[j], "y": YS[j]} for j in (3 * i, 3 * i + 1)]}
            )
            assert answer.json()["outcomes"] == ["accepted"] * 2
        assert client.service.backlog == 6
        threading.Timer(0.05, gate.set).start()
    monkeypatch.undo()
    reference = new_learner()
    for i in range(3):
        for j in (3 * i, 3 * i + 1):
            reference.learn_one(base64.b64decode(XS[j]), YS[j])
    with serving(folder) as client:
        assert client.service.state.position == 6
        assert differences(client.service.learner, reference) == []


def test_a_clock_that_jumps_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([2e9, 0.0, 5e9, -1e9] * 1000)
    with serving(folder) as client:
        monkeypatch.setattr(time, "time", lambda: next(times))
        assert learn(client, range(2)) == ["accepted"] * 2
        assert client.get("/status").json()["metrics"]["samples"] == 2
        rates = Rates(5)
        assert [rates.wait("a") > 0 for _ in range(7)] == [False] * 5 + [True] * 2


def test_the_queue_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    apply = LearnerService._apply
    monkeypatch.setattr(LearnerService, "_apply", lambda self, each: (gate.wait(), apply(self, each))[1])
    with serving(folder, max_backlog=3) as client:
        codes = [client.post("/learn", json={"x": XS[i], "y": YS[i]}) for i in range(5)]
        assert [each.status_code for each in codes] == [200, 200, 200, 503, 503]
        assert int(codes[-1].headers["Retry-After"]) >= 1
        assert client.post("/predict", json={"x": XS[0]}).status_code == 200  # predictions go on
        gate.set()
        while client.service.backlog:
            time.sleep(0.01)
        assert learn(client, range(5, 6)) == ["accepted"]
        assert client.service.learner.metrics["samples"] == 4


def test_a_full_disk_is_said_and_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder, save_interval=2) as client:
        assert learn(client, range(1)) == ["accepted"]

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            answer = client.post("/learn", json={"x": XS[1], "y": YS[1], "id": 1})
            assert answer.status_code == 507
            assert "No space left on device; nothing was accepted" in answer.json()["error"]
            assert client.post("/predict", json={"x": XS[1]}).status_code == 200
        with monkeypatch.context() as patch:  # the log can be written, the snapshot cannot
            patch.setattr("filtune.live.serving.state.AtomicCheckpointIO.save_checkpoint", full_snapshot)
            assert learn(client, range(1, 4)) == ["accepted"] * 3
            assert client.get("/status").json()["snapshot_position"] < 4
            time.sleep(0.1)
        assert learn(client, range(4, 8)) == ["accepted"] * 4
        assert "filtune_snapshot_failures_total 1.0" in client.get("/metrics").text
    reference = new_learner()
    for i in range(8):
        reference.learn_one(base64.b64decode(XS[i]), YS[i])
    with serving(folder) as client:
        assert differences(client.service.learner, reference) == []


def full_snapshot(*_: Any, **__: Any) -> None:
    from filtune.lightning_modules.atomic import DiskFull

    raise DiskFull("snapshot.ckpt: No space left on device")


def test_a_learner_that_diverges_stops_learning_and_goes_on_predicting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = OnlineLearner.learn

    def diverge(self: OnlineLearner, *args: Any) -> None:
        if self.steps == 2:
            raise FloatingPointError("step 3: LoKO has diverged")
        step(self, *args)

    with serving(folder) as client:
        assert learn(client, range(2)) == ["accepted"] * 2
        monkeypatch.setattr(OnlineLearner, "learn", diverge)
        answers: list[int] = []
        body = {"samples": [{"x": XS[i], "y": YS[i]} for i in range(2, 4)]}
        ask = [
            threading.Thread(
                target=lambda: answers.append(client.post("/learn_many?learned=true", json=body).status_code)
            )
            for _ in range(4)
        ]
        [thread.start() for thread in ask]
        [thread.join(60) for thread in ask]
        assert answers == [503] * 4  # also those that were written after it stopped
        assert client.get("/health").status_code == 503
        assert "LoKO has diverged" in client.get("/status").json()["failure"]
        assert client.post("/predict", json={"x": XS[0]}).status_code == 200
    with serving(folder) as client:  # from the log it stops at the same place
        assert client.get("/health").status_code == 503
        assert client.service.state.position == 2


def test_predictions_from_many_threads_while_it_learns(folder: Path) -> None:
    """Every answer is that of some number of whole steps."""
    reference, allowed = new_learner(), []
    for i in range(20):
        allowed.append(reference.predict_proba_one(base64.b64decode(XS[50])))
        reference.learn_one(base64.b64decode(XS[i]), YS[i])
    allowed.append(reference.predict_proba_one(base64.b64decode(XS[50])))
    found: list[dict[str, float]] = []
    with serving(folder) as client:

        def ask() -> None:
            while len(found) < 60 and not done.is_set():
                found.append(client.service.predict([XS[50]])[0].probability)

        done = threading.Event()
        threads = [threading.Thread(target=ask) for _ in range(3)]
        [thread.start() for thread in threads]
        learn(client, range(20))
        done.set()
        [thread.join() for thread in threads]
    steps = [{str(name): value for name, value in row.items()} for row in allowed]
    assert found
    assert all(each in steps for each in found)


def test_the_pages_load_nothing_from_elsewhere(client: Any) -> None:
    for path in ("/", "/page.js", "/page.css", "/docs"):
        answer = client.get(path)
        assert not re.search(r"(?:src|href|url\(|fetch\()\s*=?\s*[\"']?(?:https?:)?//", answer.text)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    described = client.get("/openapi.json").json()["paths"]
    text = client.get("/docs").text
    assert all(path in text for path in described)
    assert all(about.get("description") for each in described.values() for about in each.values())
