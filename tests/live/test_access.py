"""Bodies that come slowly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from filtune.live.serving.access import Guard, Limits

SCOPE = {"type": "http", "path": "/learn", "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1)}


def pass_through(*messages: dict[str, Any], limits: Limits | None = None) -> tuple[list[bytes], list[int], list[int]]:
    """The bodies that the application sees, the statuses sent, and those counted, for messages of a client."""
    bodies, sent, counted = [], [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        for message in coming:
            return message
        return await asyncio.Event().wait()  # type: ignore[return-value]  # nothing more comes

    guard = Guard(app, None, limits or Limits(), lambda path, status, seconds: counted.append(status))
    asyncio.run(guard(SCOPE, receive, send))
    return bodies, sent, counted


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_parts_is_handed_on_whole() -> None:
    assert pass_through(part(b"a", True), part(b"b", True), part(b"", False)) == ([b"ab"], [200], [200])


def test_a_client_that_leaves_within_its_body_is_forgotten() -> None:
    assert pass_through(part(b'{"x":', True), {"type": "http.disconnect"}) == ([], [], [499])


def test_a_body_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filtune.live.serving.access.BODY_SECONDS", 0.02)
    assert pass_through(part(b"a", True)) == ([], [408], [408])


def test_a_body_that_grows_beyond_the_limit_is_not_kept() -> None:
    assert pass_through(*[part(b"abc", True)] * 9, limits=Limits(max_body=8)) == ([], [413], [413])
