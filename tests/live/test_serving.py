"""``filtune serve`` within one process: answers, refusals, access, limits, order, and what is kept."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from filtune.live.serving.access import Limits, Rates, is_loopback, read_token
from filtune.live.serving.journal import Journal
from filtune.live.serving.monitor import ServiceMonitor
from filtune.live.serving.service import Answer, LearnerService
from filtune.live.serving.state import SNAPSHOT, open_state
from PIL import Image

from filtune import OnlineLearner
from tests.live.serving_runs import differences, digits, new_learner, serving

XS, YS = digits()
TOKEN = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    new_learner().save(folder / "start.ckpt")
    return folder / "start.ckpt"


@pytest.fixture
def folder(start: Path, tmp_path: Path) -> Path:
    (tmp_path / "start.ckpt").write_bytes(start.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def client(start: Path) -> Iterator[Any]:
    """A service for requests that change nothing."""
    with serving(start.parent) as client:
        yield client


def learn(client: Any, places: range, **options: Any) -> list[str]:
    samples = [{"x": XS[i], "y": YS[i], "id": i} for i in places]
    answer = client.post("/learn_many?learned=true", json={"samples": samples}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["outcomes"]


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
    with serving(folder, limits=Limits(max_rate=5)) as client:
        monkeypatch.setattr(time, "time", lambda: next(times))
        assert learn(client, range(2)) == ["accepted"] * 2
        assert client.get("/status").json()["metrics"]["samples"] == 2
        codes = [client.get("/health").status_code for _ in range(8)]
        assert codes[0] == 200
        assert codes[-1] == 429


BAD: list[tuple[str, str, Any, int, str]] = [
    ("no x", "/predict", {}, 422, "x: Field required"),
    ("a path", "/predict", {"x": __file__}, 422, "paths and addresses are not read"),
    ("an address", "/predict", {"x": "http://localhost/a.png"}, 422, "paths and addresses are not read"),
    ("a file's address", "/predict", {"x": "file:///etc/hostname"}, 422, "paths and addresses are not read"),
    ("the path of an image", "/predict", {"x": {"path": "a.png"}}, 422, "columns"),
    ("no image", "/predict", {"x": base64.b64encode(b"text").decode()}, 422, "cannot|can be decoded"),
    ("ragged", "/predict", {"x": [[1, 2], [3]]}, 422, "no image"),
    ("another field", "/predict", {"x": XS[0], "z": 1}, 422, "z: Extra"),
    ("a long id", "/predict", {"x": XS[0], "id": "a" * 201}, 422, "id: must be a text of at most 200"),
    ("an id that is true", "/predict", {"x": XS[0], "id": True}, 422, "id: must be"),
    ("a huge id", "/predict", {"x": XS[0], "id": 2**63}, 422, "id: must be"),
    ("no class", "/learn", {"x": XS[0], "y": 10}, 422, "not among the classes .*--new_classes add"),
    ("no label", "/learn", {"x": XS[0], "y": None}, 422, "y: must be a text, a number"),
    ("an object as label", "/learn", {"x": XS[0], "y": {"a": 1}}, 422, "y: must be a text"),
    ("a blank label", "/learn", {"x": XS[0], "y": " "}, 422, "y: the label is missing"),
    ("the second of many", "/learn_many", {"samples": [{"x": XS[0], "y": 1}, {"x": XS[0], "y": 11}]}, 422, "sample 1"),
    ("none", "/learn_many", {"samples": []}, 422, "samples: "),
    ("too many", "/learn_many", {"samples": [{"x": XS[0], "y": 1}] * 257}, 413, "257 samples are more than 256"),
    ("half a surrogate pair", "/feedback", {"id": 1, "y": "\ud800"}, 422, "y: "),
    ("another method", "/nowhere", {}, 404, "Not Found; the endpoints are at /docs"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_request_is_refused_in_one_line(client: Any, path: str, body: Any, status: int, words: str) -> None:
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    (text,) = answer.json().values()
    assert re.search(words, text), text
    assert "\n" not in text
    assert "Traceback" not in text
    assert client.service.state.journal.end == 0  # nothing of it was accepted


BODIES = {
    "empty": b"", "cut": b"[", "deep": b"[" * 100_000, "deep x": b'{"x":' + b"[" * 100_000, "bytes": b"\xff",
    "long number": b'{"x":' + b"9" * 5000 + b"}", "NaN": b'{"x":NaN,"y":1}',
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_request_is_refused(client: Any, body: bytes) -> None:
    answer = client.post("/learn", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert list(answer.json()) == ["error"]


def test_a_body_without_its_type_is_refused_with_the_header(client: Any) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = client.post("/learn", content=json.dumps({"x": XS[0], "y": YS[0]}), headers=headers)
        assert answer.status_code == 422
        assert "Content-Type: application/json" in answer.json()["error"]


def test_an_image_that_unpacks_to_gigabytes_is_refused(client: Any) -> None:
    file = BytesIO()
    Image.new("1", (6000, 5000)).save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    answer = client.post("/predict", json={"x": data})
    assert answer.status_code == 422
    assert "30,000,000 pixels" in answer.json()["error"]


def test_a_body_that_is_too_long_is_refused_before_it_is_read(folder: Path) -> None:
    with serving(folder, limits=Limits(max_body=1000)) as client:
        sent = {"count": 0}

        def parts() -> Iterator[bytes]:
            for _ in range(10):
                sent["count"] += 1
                yield b" " * 300

        headers = {"Content-Type": "application/json"}
        assert client.post("/learn", content=b" " * 1001, headers=headers).status_code == 413
        assert client.post("/learn", content=parts(), headers=headers).status_code == 413
        assert client.post("/learn", content=b" " * 1000, headers=headers).status_code == 400


def test_a_token_is_needed_for_all_that_shows_or_changes_something(folder: Path) -> None:
    with serving(folder, TOKEN) as client:
        for path in ("/", "/page.js", "/page.css", "/docs", "/openapi.json", "/health"):
            assert client.get(path).status_code == 200
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
            for path in ("/status", "/metrics", "/card"):
                assert client.get(path, headers=headers).status_code == 401
            for path in ("/predict", "/learn", "/feedback", "/predict_many", "/learn_many", "/feedback_many"):
                assert client.post(path, json={}, headers=headers).status_code == 401
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/status", headers=allowed).status_code == 200
        assert client.post("/predict", json={"x": XS[0]}, headers=allowed).status_code == 200
        elsewhere = {**allowed, "Host": "model.example"}
        assert client.post("/predict", json={"x": XS[0]}, headers=elsewhere).status_code == 200


def test_pages_of_other_sites_cannot_use_a_service_without_a_token(client: Any) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example:8000"}):
        assert client.post("/predict", json={"x": XS[0]}, headers=headers).status_code == 403
    for headers in ({"Origin": "http://localhost:8000"}, {"Host": "127.0.0.1"}, {"Host": "[::1]:8000"}):
        assert client.post("/predict", json={"x": XS[0]}, headers=headers).status_code == 200


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


def test_a_folder_of_another_checkpoint_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    with serving(folder):
        pass
    new_learner(seed=1).save(folder / "other.ckpt")
    line = refused("serve", "--ckpt_path", str(folder / "other.ckpt"))
    assert "it holds what was learned from another checkpoint; name another --state_dir" in line


def test_a_folder_in_use_or_without_its_snapshot_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filtune.lightning_modules.locks.FolderLock.acquire.__defaults__", (0.0,))
    with serving(folder), pytest.raises(ValueError, match="another command .* writes into this folder"):
        open_state(folder / "start.ckpt", None)
    journal = Journal(folder / "serving" / "log")
    list(journal.read(0))
    journal._open(journal._path(0))
    (folder / "serving" / SNAPSHOT).unlink()
    with pytest.raises(ValueError, match=r"snapshot\.ckpt: missing, though there is a log"):
        open_state(folder / "start.ckpt", None)


def test_a_damaged_log_is_refused_with_its_place(folder: Path, refused: Callable[..., str]) -> None:
    with serving(folder) as client:
        client.service._saved_at = 10**9  # no snapshot at the end
        for i in range(3):
            learn(client, range(i, i + 1))
        client.service._save = lambda: None
    (segment,) = (folder / "serving" / "log").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b'"y":', b'"z":', 1))
    line = refused("serve", "--ckpt_path", str(folder / "start.ckpt"), "--port", "0")
    assert f"{segment}, line 1: its checksum is wrong" in line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it, which needs a token; set FILTUNE_TOKEN"),
        (["--host", "::"], "needs a token"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: no such address"),
        (["--port", "-1"], "--port: must be 0 or more"),
        (["--port", "70000"], "--port: must be at most 65535"),
        (["--max_batch", "0"], "--max_batch: must be positive"),
        (["--max_rate", "nan"], "--max_rate: must be a number"),
        (["--token_file", "nowhere"], "--token_file nowhere: cannot be read"),
        ([], "there is no checkpoint nowhere"),
    ],
)
def test_options_are_refused_in_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, args: list[str], words: str
) -> None:
    monkeypatch.delenv("FILTUNE_TOKEN", raising=False)
    assert words in refused("serve", "--ckpt_path", "nowhere", *args, *([] if "--port" in args else ["--port", "0"]))


def test_a_missing_package_is_named_with_the_extra(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filtune.live.serving.commands.find_spec", lambda name: None)
    assert "filtune serve needs fastapi; pip install 'filtune[serve]'" in refused("serve", "--ckpt_path", "nowhere")


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FILTUNE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("FILTUNE_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}2\n")
    assert read_token(tmp_path / "token") == f"{TOKEN}2"
    for bad in ("", "short", "with a space in it 123", "ümlaute ümlaute ümlaute"):
        monkeypatch.setenv("FILTUNE_TOKEN", bad)
        with pytest.raises(ValueError, match="16 or more printable ASCII"):
            read_token(None)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")] == [True] * 3 + [
        False
    ] * 2


def test_rates_follow_the_time_that_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("filtune.live.serving.access.time.monotonic", lambda: now[0])
    rates = Rates(2.0)
    assert [rates.wait("a") for _ in range(4)] == [0, 0, 0.5, 0.5]
    assert rates.wait("b") == 0  # another address
    now[0] = 0.5
    assert [rates.wait("a") for _ in range(2)] == [0, 0.5]
    now[0] = 1000.0
    assert [rates.wait("a") for _ in range(3)] == [0, 0, 0.5]
    assert Rates(0).wait("a") == 0


def test_the_pages_load_nothing_from_elsewhere(client: Any) -> None:
    for path in ("/", "/page.js", "/page.css", "/docs"):
        answer = client.get(path)
        assert not re.search(r"(?:src|href|url\(|fetch\()\s*=?\s*[\"']?(?:https?:)?//", answer.text)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    described = client.get("/openapi.json").json()["paths"]
    text = client.get("/docs").text
    assert all(path in text for path in described)
    assert all(about.get("description") for each in described.values() for about in each.values())
