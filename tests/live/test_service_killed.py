"""A service that is killed with SIGKILL, again and again, ends with the state of a learner that was not."""

from __future__ import annotations

import base64
import contextlib
import gc
import http.client
import json
import multiprocessing
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.live import core
from filtune.live.serving.state import SERVING, SNAPSHOT
from filtune.optimizers import Filtune, LoKO

from filtune import OnlineLearner
from tests.live.serving_runs import differences, digits, new_learner

FORK = multiprocessing.get_context("fork")
PATIENCE = 120.0
"""Seconds that a process may take to start on a loaded machine."""


def _serve(args: list[str], printed: str) -> None:
    gc.freeze()
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(printed, "w")  # noqa: SIM115  # closed with the process
    from filtune.cli import main

    main(args)


class Served:
    """``filtune serve`` as a process that can be killed, and a client that sends again what was not answered.

    Args:
        folder: The folder with the checkpoint.
        options: Further options.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options, self.starts = folder, options, 0
        self.start()

    def start(self) -> None:
        printed = self.folder / f"printed-{self.starts}.txt"
        args = ["serve", "--ckpt_path", str(self.folder / "start.ckpt"), "--port", "0", *self.options]
        self.process = FORK.Process(target=_serve, args=(args, str(printed)))
        self.process.start()
        self.starts += 1
        until = time.monotonic() + PATIENCE
        while not (printed.is_file() and "serving on" in printed.read_text()):
            assert self.process.is_alive(), printed.read_text()
            assert time.monotonic() < until, printed.read_text()
            time.sleep(0.01)
        self.port = int(printed.read_text().partition("http://127.0.0.1:")[2].partition(" ")[0])

    def kill(self, number: int = signal.SIGKILL) -> int | None:
        if self.process.is_alive():
            os.kill(self.process.pid or 0, number)
        self.process.join(PATIENCE)
        return self.process.exitcode

    def send(self, path: str, body: Any) -> Any:
        """Send a request and return the answer; where there is none, start the service again and repeat it."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.ask(path, body)
            self.kill()
            self.start()

    def ask(self, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def send_and_kill(self, path: str, body: Any, seconds: float) -> None:
        """Send a request, and kill the service that many seconds later, whatever it has done by then."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
        )
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + data)
            time.sleep(seconds)
            self.kill()


def stream(learner: Any, served: Served, places: Sequence[int], kills: dict[int, float]) -> set[int]:
    """Send a stream to a service that is killed, and the same to a learner in this process.

    Every third sample is predicted, and its label comes two samples later.

    Args:
        learner: The learner in this process.
        served: The service.
        places: The digits of the stream.
        kills: Seconds after a sample was sent, at which the service is killed.

    Returns:
        The ids of the labels that were acknowledged.
    """
    xs, ys = digits()
    acknowledged, late = set(), {}
    for number, place in enumerate(places):
        x, y, path = xs[place], ys[place], "/learn?learned=true"
        body: dict[str, Any] = {"x": x, "y": y, "id": number}
        if number % 3 == 0:
            path = "/predict"
            del body["y"]
        if number in kills:
            served.send_and_kill(path, body, kills[number])
        status, answer = served.send(path, body)
        assert status == 200, answer
        if path == "/predict":
            learner.predict_one(base64.b64decode(x), id=number)
            late[number + 2] = number, y
        else:
            acknowledged.add(number)
            learner.learn_one(base64.b64decode(x), y)
        if number in late:
            waiting, label = late.pop(number)
            status, answer = served.send("/feedback?learned=true", {"id": waiting, "y": label})
            assert status == 200, answer
            acknowledged.add(waiting)
            assert learner.feedback(waiting, label)
    return acknowledged


def check(folder: Path, reference: Any, acknowledged: set[int]) -> None:
    """Check the snapshot of a service that has ended against a learner that was never killed."""
    saved = torch.load(folder / "serving" / SNAPSHOT, weights_only=True)[SERVING]
    assert acknowledged == set(saved["learned"])
    restored = OnlineLearner.load(folder / "serving" / SNAPSHOT)
    assert differences(restored, reference) == []
    assert restored.metrics["samples"] == len(acknowledged) == reference.metrics["samples"]


def begin(folder: Path, optimizer: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.delenv("FILTUNE_TOKEN", raising=False)
    torch.set_num_threads(1)
    learner = new_learner(optimizer, **options)
    learner.save(folder / "start.ckpt")
    return learner


@pytest.fixture(autouse=True)
def _threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_killed_service_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = begin(tmp_path, Filtune, monkeypatch)
    served = Served(tmp_path, "--save_interval", "4")
    acknowledged = stream(reference, served, range(15), {4: 0.01, 9: 0.0})
    assert served.starts == 3
    assert served.kill(signal.SIGTERM) == 143
    assert "Traceback" not in "".join(path.read_text() for path in tmp_path.glob("printed-*"))
    check(tmp_path, reference, acknowledged)


@pytest.fixture
def _diverging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a parameter be lost before three steps of a learner that rewinds; the processes of the service inherit it."""
    monkeypatch.setattr(core, "CHECK_INTERVAL", 10)
    monkeypatch.setattr(core, "KEEP_INTERVAL", 40)
    step = core.LearnerCore.learn

    def learn(self: Any, samples: Any, labels: Any) -> None:
        if self.watch.policy == "rewind" and self.steps in (95, 203, 404):
            next(iter(self.model.trained().values())).data.fill_(float("nan"))
        step(self, samples, labels)

    monkeypatch.setattr(core.LearnerCore, "learn", learn)


@pytest.mark.slow
@pytest.mark.usefixtures("_diverging")
@pytest.mark.filterwarnings("ignore:step .* restored to those of step", "ignore:step .* the mode of the posterior")
@pytest.mark.parametrize("policy", ["stop", "rewind"])
def test_twenty_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Any) -> None:
    """Also where the learner diverges and goes back to an earlier state, which is in the snapshot as well."""
    reference = begin(tmp_path, Filtune, monkeypatch, on_divergence=policy)
    served = Served(tmp_path, "--save_interval", "25")
    chance = random.Random(0)
    places = [chance.randrange(60) for _ in range(600)]
    kills = {number: chance.expovariate(1 / 0.02) for number in chance.sample(range(600), 20)}
    acknowledged = stream(reference, served, places, kills)
    assert served.starts == 21
    assert served.kill(signal.SIGTERM) == 143
    assert reference.watch.rewinds == (3 if policy == "rewind" else 0)
    check(tmp_path, reference, acknowledged)


@pytest.mark.slow
def test_kills_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many clients at a time, every label that was acknowledged is there, and none is there twice."""
    begin(tmp_path, LoKO, monkeypatch)
    served = Served(tmp_path, "--save_interval", "50", "--max_backlog", "40")
    xs, ys = digits()
    waiting, acknowledged = queue.SimpleQueue[int](), set()
    for number in range(600):
        waiting.put(number)

    def send() -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                number = waiting.get_nowait()
                while number not in acknowledged:
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        body = {"x": xs[number % 60], "y": ys[number % 60], "id": number}
                        status, answer = served.ask("/learn", body)
                        assert status in (200, 503), answer
                        if status == 200:
                            acknowledged.add(number)
                    time.sleep(0.002)
                continue
            return

    clients = [threading.Thread(target=send) for _ in range(6)]
    [client.start() for client in clients]
    for kill in range(10):
        while len(acknowledged) < 55 * (kill + 1):
            time.sleep(0.005)
        served.kill()
        served.start()
    [client.join() for client in clients]
    assert acknowledged == set(range(600))
    assert served.kill(signal.SIGTERM) == 143
    served.start()  # what was acknowledged and not learned at the end
    served.ask("/learn?learned=true", {"x": xs[0], "y": ys[0], "id": 0})
    assert served.kill(signal.SIGTERM) == 143
    saved = torch.load(tmp_path / "serving" / SNAPSHOT, weights_only=True)
    assert set(saved[SERVING]["learned"]) == set(range(600))
    assert OnlineLearner.load(tmp_path / "serving" / SNAPSHOT).metrics["samples"] == 600
