"""Alarms by webhook: delivered in the background, again until they are taken, and once by their id."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from filtune.live.watching import outbox, webhook
from filtune.live.watching.outbox import Outbox
from filtune.live.watching.webhook import TOKEN, Webhook, check_webhook

WAIT = 60
"""Seconds after which a test gives up."""


class Receiver:
    """A server that takes documents, and answers with the statuses that it is given, then with 204."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []
        self.holds = threading.Event()
        self.holds.set()
        self.arrived = threading.Semaphore(0)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.holds.wait(WAIT)
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                # before the answer is sent, for the sender may go on at once
                receiver.headers.append({"path": self.path, **dict(self.headers)})
                if status < 300:
                    receiver.taken.append(json.loads(body))
                self.end_headers()
                receiver.arrived.release()

            do_GET = do_POST

            def log_message(self, *args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def wait(self, requests: int) -> None:
        for _ in range(requests):
            assert self.arrived.acquire(timeout=WAIT)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(webhook, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = Receiver()
    yield found
    found.holds.set()
    found.server.shutdown()
    found.server.server_close()


def test_each_alarm_is_delivered_once(receiver: Receiver, tmp_path: Path) -> None:
    """Also where the same alarm is raised again, by samples that are learned again after a kill."""
    said: list[str] = []
    first = Webhook(receiver.url, Outbox(tmp_path / "out"), said.append)
    for id in ("a", "b", "a"):
        first.post({"id": id, "rule": "drift"})
    receiver.wait(2)
    assert first.close() == 0
    again = Webhook(receiver.url, Outbox(tmp_path / "out"), said.append)
    for id in ("a", "b", "c"):
        again.post({"id": id, "rule": "drift"})
    receiver.wait(1)
    assert again.close() == 0
    assert [each["id"] for each in receiver.taken] == ["a", "b", "c"]
    assert [each["Idempotency-Key"] for each in receiver.headers] == ["a", "b", "c"]
    assert said == []


def test_it_is_tried_again_until_it_is_taken(receiver: Receiver, tmp_path: Path) -> None:
    receiver.statuses = [500, 404, 302]
    said: list[str] = []
    hook = Webhook(receiver.url, Outbox(tmp_path / "out"), said.append)
    hook.post({"id": "a"})
    hook.post({"id": "b"})
    receiver.wait(5)
    assert hook.close() == 0
    assert [each["id"] for each in receiver.taken] == ["a", "b"]
    assert {each["path"] for each in receiver.headers} == {"/hook"}, "a redirect was followed"
    assert hook.failures == 3
    assert len(said) == 1
    assert said[0].startswith("webhook: 127.0.0.1 did not take an alarm (status 500); it is tried again")


def test_what_is_not_delivered_is_sent_by_the_next_start(receiver: Receiver, tmp_path: Path) -> None:
    receiver.statuses = [503] * 3
    hook = Webhook(receiver.url, Outbox(tmp_path / "out"), lambda text: None)
    hook.post({"id": "a"})
    receiver.wait(1)
    receiver.statuses = [503] * 100
    assert hook.close() == 1
    receiver.statuses = []
    again = Webhook(receiver.url, Outbox(tmp_path / "out"), lambda text: None)
    assert again.close() == 0
    assert [each["id"] for each in receiver.taken] == ["a"]


def test_a_receiver_that_does_not_answer_holds_nothing_up(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT", 0.2)
    receiver.holds.clear()
    hook = Webhook(receiver.url, Outbox(tmp_path / "out"), lambda text: None)
    for i in range(20):
        hook.post({"id": str(i)})  # returns at once, for else the test would take 4 s
    assert hook.close() == 20


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    said: list[str] = []
    hook = Webhook("http://127.0.0.1:9/", Outbox(tmp_path / "out"), said.append)
    hook.post({"id": "a"})
    assert hook.close() == 1
    assert "refused" in said[0]


def test_the_token_is_in_the_header(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "s3cret")
    hook = Webhook(receiver.url, Outbox(tmp_path / "out"), lambda text: None)
    hook.post({"id": "a"})
    receiver.wait(1)
    assert hook.close() == 0
    assert receiver.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in (tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("example.org/hook", "an address of http or https is needed, got 'example.org/hook'"),
        ("ftp://example.org", "an address of http or https is needed"),
        ("file:///etc/passwd", "an address of http or https is needed"),
        ("http://", "an address of http or https is needed"),
        ("http://host:99999/", "it is no address"),
        ("http://[::1/", "it is no address"),
        ("https://me:secret@example.org/", "no password in the address"),
        ("https://example.org/a b", "must be written as %XX"),
        ("https://exämple.org/", "must be written as %XX, or a host as xn--"),
        ("https://example.org/\r\nX: y", "must be written as %XX"),
    ],
)
def test_a_wrong_address_is_refused_in_one_line(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        check_webhook(url)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("token", "url", "words"),
    [
        ("s3cret", "http://example.org/", "would be sent unencrypted; take https, or unset it"),
        ("s3 cret", "https://example.org/", "cannot be in a header"),
        ("s3crét", "https://example.org/", "cannot be in a header"),
    ],
)
def test_a_token_that_cannot_be_sent(token: str, url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(ValueError, match=words) as refused:
        check_webhook(url)
    assert token not in str(refused.value)


@pytest.mark.parametrize("url", ["https://example.org/", "http://localhost:1/", "http://127.0.0.2/", "http://[::1]/"])
def test_a_token_goes_by_https_and_to_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "s3cret")
    assert check_webhook(url)


def test_the_outbox_is_bounded_and_survives_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filtune.live.watching import outbox

    monkeypatch.setattr(outbox, "MOST_WAITING", 3)
    monkeypatch.setattr(outbox, "REMEMBERED", 5)
    box = Outbox(tmp_path / "out")
    for i in range(8):
        assert box.add({"id": str(i)})
    assert (len(box), box.dropped) == (3, 5)
    box.delivered("5")
    with (tmp_path / "out").open("a") as file:
        file.write('{"event": {"id": "half')
    again = Outbox(tmp_path / "out")
    assert again.next() == {"id": "4"}  # of 4, 6 and 7, the newest that wait
    assert len(again) == 3
    assert not again.add({"id": "5"})
    assert again.add({"id": "half"})


def test_a_full_disk_loses_no_alarm(tmp_path: Path, receiver: Receiver) -> None:
    box = Outbox(tmp_path / "missing" / "out")
    hook = Webhook(receiver.url, box, lambda text: None)
    hook.post({"id": "a"})
    receiver.wait(1)
    assert hook.close() == 0
    assert receiver.taken == [{"id": "a"}]


def test_a_try_is_bounded_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where headers come in small pieces no operation of the socket takes long; the connection is ended."""
    monkeypatch.setattr(webhook, "TIMEOUT", 0.3)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    said: list[str] = []
    server, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 204 No Content\r\n")
            for number in range(10_000):
                connection.sendall(b"X-%d: 1\r\n" % number)
                time.sleep(0.05)
        ended.set()

    threading.Thread(target=drip, daemon=True).start()
    begin = time.monotonic()
    hook = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/", Outbox(tmp_path / "out"), said.append)
    hook.post({"id": "a"})
    assert ended.wait(WAIT)  # the receiver has seen the end: no thread is left with it
    assert hook.close() == 1
    assert time.monotonic() - begin < WAIT
    assert "did not take an alarm (no answer within 0.3 s)" in said[0]
    server.close()


def test_the_file_of_alarms_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "REMEMBERED", 10)
    box, most = Outbox(tmp_path / "out"), 0
    for i in range(60):
        assert box.add({"id": str(i)})
        if i % 3:
            box.delivered(str(i))
        most = max(most, len((tmp_path / "out").read_text().splitlines()))
        waiting = len(box)
    assert most <= 20 + waiting
    again = Outbox(tmp_path / "out")
    assert len(again) == waiting == 20
    assert not again.add({"id": "59"})
