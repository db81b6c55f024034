"""Access to the service: everything that is checked before a request is read.

Where a service listens on more than loopback, a token is needed. Without one, on loopback, requests of web pages from
elsewhere are refused: a browser would send them on behalf of any page (by its ``Origin``, and by ``Host`` where a name
was made to resolve to this machine).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio

from .forms import FORM, json_of_form

VARIABLE = "FILTUNE_TOKEN"
"""Environment variable of the token."""

SHORTEST = 16
"""Characters of a token."""

OPEN_PATHS = ("/", "/page.js", "/page.css", "/docs", "/openapi.json", "/health")
"""Paths without a token: they hold nothing of the data."""

BODY_SECONDS = 30.0
"""Seconds within which the body of a request must have come."""

MOST_CLIENTS = 10_000
"""Addresses whose rate is known at a time."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every answer: the page loads nothing from elsewhere, and is shown in no other."""

_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    Attributes:
        max_body: Bytes of a body.
        max_rate: Requests a second of one address; as many may come at once. 0: no limit.
        max_batch: Samples of a request.
    """

    max_body: int = 8 << 20
    max_rate: float = 1000.0
    max_batch: int = 256


def read_token(file: Path | None) -> str | None:
    """Return the token of a file, or of the environment; None where there is none.

    Raises:
        ValueError: If it is too short, or has a space or a character beyond ASCII.
    """
    where = str(file) if file is not None else VARIABLE
    try:
        token = file.read_text(encoding="utf-8").strip() if file is not None else os.environ.get(VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--token_file {file}: cannot be read ({error})") from error
    if token is None:
        return None
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{where}: a token of {SHORTEST} or more printable ASCII characters without spaces is needed, such as that "
            "of: openssl rand -hex 32"
        )
    return token


def check_exposure(host: str, token: str | None) -> None:
    """Check that nobody else can reach a service without a token.

    Raises:
        ValueError: If there is no token, and the host is not loopback.
    """
    if token is None and not is_loopback(host):
        raise ValueError(
            f"--host {host}: others can reach it, which needs a token; set {VARIABLE} or name a file by --token_file"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host is reached from this machine alone.

    Raises:
        ValueError: If there is no such host.
    """
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host {host}: no such address of this machine ({error})") from error
    return all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


class Rates:
    """A token bucket for each address.

    Args:
        rate: Requests a second, and most at once; 0: no limit.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return 0 and count a request, or the seconds until the next one may come."""
        if not self.rate:
            return 0.0
        now, most = time.monotonic(), max(self.rate, 1.0)
        left, since = self._buckets.pop(address, (most, now))
        left = min(most, left + (now - since) * self.rate)
        allowed = left >= 1
        self._buckets[address] = (left - allowed, now)
        while len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate


class Denied(Exception):
    """A request is refused.

    Args:
        status: The status.
        reason: Why.
        headers: Further headers.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers or {}


class Guard:
    """Middleware that lets through what may pass, with its whole body read.

    Args:
        app: The application behind it.
        token: The token; None where there is none.
        limits: The limits.
        observe: Called with path, status and seconds of each request.
    """

    def __init__(self, app: Any, token: str | None, limits: Limits, observe: Callable[[str, int, float], None]) -> None:
        self.app, self.limits, self.rates, self.observe = app, limits, Rates(limits.max_rate), observe
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.monotonic(), 499  # the client has left

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        try:
            self._check(scope)
            body = await self._body(scope, receive)
            if body is not None:
                scope, body = await _as_json(scope, body)
                await self.app(scope, _replayed(body, receive), sending)
        except Denied as denied:
            await _refuse(sending, denied)
        finally:
            self.observe(scope["path"], status, time.monotonic() - begin)

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if wait := self.rates.wait((scope.get("client") or ("",))[0]):
            seconds = str(max(1, round(wait)))
            raise Denied(429, f"more than {self.limits.max_rate:g} requests a second", {"Retry-After": seconds})
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and _host_of(origin) != host.lower():
            raise Denied(403, "a web page of another site asks; only the page of this service may")
        if self._token is None:
            if not _is_local(host):
                raise Denied(403, f"without a token the service is called localhost or by its address, not {host!r}")
        elif scope["path"] not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._token):
                reason = "the header Authorization: Bearer TOKEN is missing, or its token is not the service's"
                raise Denied(401, reason, {"WWW-Authenticate": "Bearer"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if the client has left before its end."""
        most = self.limits.max_body
        stated = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        if stated.isdigit() and int(stated[:20]) > most:
            raise Denied(413, f"the body is longer than {most:,} bytes", {"Connection": "close"})
        parts, size, until = [], 0, time.monotonic() + BODY_SECONDS
        while True:
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except asyncio.TimeoutError:
                raise Denied(408, f"the body has not come within {BODY_SECONDS:g} s", {"Connection": "close"}) from None
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise Denied(413, f"the body is longer than {most:,} bytes", {"Connection": "close"})
            if not message.get("more_body"):
                return b"".join(parts)


async def _as_json(scope: Scope, body: bytes) -> tuple[Scope, bytes]:
    """Return a request with an uploaded file as one with JSON, any other as it is."""
    kind = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"")
    if not kind.lower().startswith(FORM):
        return scope, body
    try:
        body = await anyio.to_thread.run_sync(json_of_form, kind, body)
    except ValueError as error:
        raise Denied(400, str(error)) from error
    kept = [each for each in scope["headers"] if each[0].lower() not in (b"content-type", b"content-length")]
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return {**scope, "headers": [*kept, *own]}, body


def _host_of(origin: str) -> str:
    """Return host and port of an origin, as ``Host`` has them; nothing where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return what hands out the body that was read, and then what follows it."""
    handed = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, denied: Denied) -> None:
    body = json.dumps({"error": str(denied)}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **denied.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": denied.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
