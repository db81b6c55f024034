"""The log of a service is read under the options that it was written under, and without what is skipped."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filtune.live.serving.app import create_app
from filtune.live.serving.journal import Journal
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import PREVIOUS, SNAPSHOT, open_state
from starlette.testclient import TestClient

from filtune import OnlineLearner
from tests.live.serving_runs import HOST, differences, digits, learn, new_learner, serving

XS, YS = digits()


@contextmanager
def served(folder: Path, skip: tuple[int, ...] = (), killed: bool = False, **options: Any) -> Iterator[Any]:
    """A client of a service with options; one that is killed leaves the log and no snapshot."""
    service = LearnerService(open_state(folder / "start.ckpt", None, **options), skip=skip)
    if killed:
        service._save = lambda: None  # type: ignore[method-assign]
    with TestClient(create_app(service), base_url=HOST, raise_server_exceptions=False) as client:
        client.service = service
        yield client


def feedback(client: Any, id: Any, y: Any) -> Any:
    return client.post("/feedback?learned=true", json={"id": id, "y": y})


@pytest.mark.parametrize("most", [0, 2, 10_000])
def test_a_label_that_was_accepted_is_learned_whatever_the_bound_is_then(folder: Path, most: int) -> None:
    with served(folder, killed=True) as client:
        for i in range(5):
            client.post("/predict", json={"x": XS[i], "id": f"w{i}"})
        assert feedback(client, "w0", YS[0]).json() == {"outcomes": ["accepted"]}
        before = client.service.learner.metrics
    changed = most != 10_000
    for start, options in enumerate([{"max_pending": most}, {}]):  # kept by an operation of the log
        with served(folder, killed=True, **options) as client:
            after = client.service.learner.metrics
            assert after == before | {"waiting": float(min(4, most))}
            assert feedback(client, "w0", YS[0]).json() == {"outcomes": ["duplicate"]}
            assert client.service.learner.pending.most == most
            assert client.service.state.position == 6 + changed + start + 1  # the duplicates as well
    with served(folder) as client:
        codes = [feedback(client, f"w{i}", YS[i]).status_code for i in range(1, 5)]
        assert codes == [404] * (4 - min(4, most)) + [200] * min(4, most)


def test_a_class_that_was_accepted_is_learned_where_no_more_are_taken(folder: Path) -> None:
    body = {"x": XS[0], "y": "brand new", "id": "n"}
    with served(folder, killed=True, new_classes="add") as client:
        assert client.post("/learn?learned=true", json=body).status_code == 200
        learn(client, range(3))
        expected = client.service.learner
    with served(folder, killed=True, new_classes="refuse") as client:
        learner = client.service.learner
        assert learner.classes[-1] == "brand new"
        assert learner.metrics == expected.metrics
        assert client.post("/learn", json={"x": XS[0], "y": "newer"}).status_code == 422
        learn(client, range(3, 4))
    with served(folder) as client:  # as the service before left it
        assert client.post("/learn", json={"x": XS[0], "y": "newer"}).status_code == 422
        assert client.service.learner.metrics["samples"] == 5
        assert not client.service.learner.settings.takes_new
    with served(folder, new_classes="add") as client:
        assert client.post("/learn?learned=true", json={"x": XS[0], "y": "newer"}).status_code == 200
    assert OnlineLearner.load(folder / "serving" / SNAPSHOT).classes[-2:] == ["brand new", "newer"]


def test_options_that_cannot_be_are_refused_before_the_log_is_read(folder: Path) -> None:
    with served(folder):
        pass
    with pytest.raises(ValueError, match="max_pending: must be a number of samples"):
        open_state(folder / "start.ckpt", None, max_pending=-1)
    with serving(folder) as client:
        assert client.service.learner.pending.most == 10_000


def test_samples_that_wait_in_a_saved_learner_get_their_labels(tmp_path: Path) -> None:
    reference = new_learner()
    for i in range(3):
        reference.predict_one(base64.b64decode(XS[i]), id=i)
    reference.save(tmp_path / "start.ckpt")
    with served(tmp_path) as client:
        assert feedback(client, 1, YS[1]).json() == {"outcomes": ["accepted"]}
        assert feedback(client, 1, YS[1]).json() == {"outcomes": ["duplicate"]}
        assert client.post("/predict", json={"x": XS[2], "id": 2}).json()["outcome"] == "duplicate"
        assert feedback(client, 3, YS[1]).status_code == 404
    reference.feedback(1, YS[1])
    assert differences(OnlineLearner.load(tmp_path / "serving" / SNAPSHOT), reference) == []
    second = LearnerService(open_state(tmp_path / "serving" / SNAPSHOT, tmp_path / "second"))
    try:  # begun from the snapshot of another service, it knows what that has learned
        assert second.state.ids.take({"op": "label", "id": 1}) == "duplicate"
        assert second.state.ids.take({"op": "label", "id": 0}) == "accepted"
    finally:
        second.close()


def poison(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """Let the optimizer find after a sample of a class that a value was not finite, and ever after."""
    step = OnlineLearner.learn

    def diverge(self: OnlineLearner, samples: Any, labels: Any) -> None:
        step(self, samples, labels)
        if bad in labels:
            self.optimizer.check_divergence = lambda: "an update was not finite"  # type: ignore[method-assign]

    monkeypatch.setattr(OnlineLearner, "learn", diverge)


def test_an_operation_that_lets_the_learner_diverge_can_be_skipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning stops at that operation, before any snapshot, and goes on without it."""
    bad = YS[4]
    places = [i for i in range(12) if YS[i] != bad]
    reference = new_learner()
    poison(monkeypatch, bad)
    with serving(folder, save_interval=1) as client:
        for i in places[:3]:
            learn(client, range(i, i + 1))
        answer = client.post("/learn?learned=true", json={"x": XS[4], "y": bad, "id": 4})
        assert answer.status_code == 503
        assert "stopped at operation 3 (--skip_operation 3 goes on without it): step 4: an update" in answer.text
    with served(folder) as client:  # and stays so
        assert client.get("/health").status_code == 503
    with served(folder, skip=(3,)) as client:
        assert client.get("/health").status_code == 200
        for i in places[3:5]:
            learn(client, range(i, i + 1))
        assert client.post("/learn", json={"x": XS[4], "y": 0, "id": 4}).json()["outcomes"] == ["duplicate"]
    for i in places[:5]:
        reference.learn_one(base64.b64decode(XS[i]), YS[i])
    with served(folder) as client:  # it need not be named again once there is a snapshot
        assert differences(client.service.learner, reference) == []


def test_an_operation_that_is_in_the_snapshot_is_skipped_from_the_one_before(folder: Path) -> None:
    with serving(folder, save_interval=2) as client:
        for i in range(5):  # snapshots at 2, 4, and 5 at the end
            learn(client, range(i, i + 1))
    (folder / "serving" / SNAPSHOT).write_bytes((folder / "serving" / PREVIOUS).read_bytes())
    reference = new_learner()
    for i in range(4):
        reference.learn_one(base64.b64decode(XS[i]), YS[i])
    with served(folder, skip=(4,)) as client:
        assert client.service.state.position == 5
        assert differences(client.service.learner, reference) == []


def test_an_operation_that_is_not_in_the_log_cannot_be_skipped(folder: Path) -> None:
    with served(folder) as client:
        learn(client, range(2))
    with pytest.raises(ValueError, match="--skip_operation 2: the log ends before operation 2"):
        LearnerService(open_state(folder / "start.ckpt", None), skip=(2,))
    with pytest.warns(UserWarning, match="--skip_operation 1: the snapshot is of 2 operations and has it already"):
        LearnerService(open_state(folder / "start.ckpt", None), skip=(1,)).close()


def test_the_option_names_an_operation(folder: Path, refused: Callable[..., str]) -> None:
    line = refused("serve", "--ckpt_path", str(folder / "start.ckpt"), "--port", "0", "--skip_operation", "7")
    assert "--skip_operation 7: the log ends before operation 0" in line
    assert "0 or more" in refused("serve", "--ckpt_path", str(folder), "--skip_operation", "-1")


@pytest.mark.parametrize("where", ["rotate", "append"])
def test_where_the_writer_ends_every_request_gets_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Also those that had arrived and that nobody would write any more."""
    with serving(folder, save_interval=1) as client:
        service = client.service
        learn(client, range(1))
        written = [service.check([{"op": "learn", "x": XS[i], "y": YS[i]}]) for i in (1, 2, 3)]
        late = []

        def broken(*_: Any) -> None:
            late.extend(service.submit([{"op": "learn"}], each) for each in written[1:])
            raise RuntimeError("a fault\nof the log")

        service._rotates = True
        with monkeypatch.context() as patch:
            patch.setattr(Journal, where, broken)
            first = service.submit([{"op": "learn"}], written[0])
            for ticket in (first, *late):
                for future in (ticket.durable, ticket.applied):
                    with pytest.raises(Exception, match="the log is no longer written; start the service again: a fau"):
                        future.result(timeout=60)
        assert len(late) == 2
        assert client.get("/health").status_code == 503
        assert client.post("/learn", json={"x": XS[1], "y": YS[1]}).status_code == 503
        assert client.post("/predict", json={"x": XS[1]}).status_code == 200
    with serving(folder) as client:
        assert client.service.learner.metrics["samples"] == 1
        assert learn(client, range(1, 2)) == ["accepted"]
