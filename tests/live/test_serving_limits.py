"""Limits of the machine and of its clients: files that may not grow, clients that die, over a real connection."""

from __future__ import annotations

import base64
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from filtune.live.serving.app import create_app
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import SNAPSHOT, open_state

from tests.live.serving_runs import differences, digits, learn, new_learner, serving

XS, YS = digits()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let the system refuse to let any file of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore:.*the log is kept, and the snapshot tried again")
def test_a_file_that_may_not_grow_is_a_full_disk(folder: Path) -> None:
    """Of the system itself: a request is written by half before it fails, and taken back as a whole."""
    with serving(folder, save_interval=4) as client:
        learn(client, range(2))
        (segment,) = (folder / "serving" / "log").iterdir()
        before = segment.read_bytes()
        body = {"x": XS[2], "y": YS[2], "id": 2}
        with files_up_to(len(before) + 100):
            for _ in range(2):
                answer = client.post("/learn", json=body)
                assert answer.status_code == 507
                assert "nothing was accepted" in answer.json()["error"]
            assert segment.read_bytes() == before
            assert client.post("/predict", json={"x": XS[2]}).status_code == 200
        with files_up_to((folder / "serving" / SNAPSHOT).stat().st_size // 2):  # the log may grow, the snapshot not
            assert learn(client, range(2, 6)) == ["accepted"] * 4
            deadline = time.monotonic() + 60
            while "filtune_snapshot_failures_total 0.0" in client.get("/metrics").text:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        client.service._save = lambda: None  # as after a kill
    reference = new_learner()
    for i in range(6):
        reference.learn_one(base64.b64decode(XS[i]), YS[i])
    with serving(folder) as client:
        assert client.service.replayed == 6
        assert differences(client.service.learner, reference) == []


@contextmanager
def listening(service: LearnerService) -> Iterator[int]:
    """Serve on a free port; gives it."""
    config = uvicorn.Config(create_app(service), log_level="error", access_log=False, lifespan="on", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(60)


def test_clients_that_die(folder: Path) -> None:
    """What has not come whole is dropped, what has is learned, and a repetition by id changes nothing."""
    service = LearnerService(open_state(folder / "start.ckpt", None))

    def send(port: int, body: Any, share: float, *, hears: bool = False) -> bytes:
        data = json.dumps(body).encode()
        head = "POST /learn?learned=true HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        whole = f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(whole[: int(share * len(whole))])
            return b"".join(iter(lambda: connection.recv(4096), b"")) if hears else b""

    with listening(service) as port:
        body = {"x": XS[0], "y": YS[0], "id": 0}
        for share in (0.1, 0.5, 0.99):
            send(port, body, share)
        send(port, body, 1.0)
        deadline = time.monotonic() + 60
        while service.state.position < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert b'{"outcomes":["duplicate"]}' in send(port, body, 1.0, hears=True)
        assert b'{"outcomes":["accepted"]}' in send(port, body | {"id": 1}, 1.0, hears=True)
    assert service.learner.metrics["samples"] == 2
    assert service.state.journal.end == 3
