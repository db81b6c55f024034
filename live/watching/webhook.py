"""Alarms by webhook: JSON documents posted to an address, in the background, again until they are delivered."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from ..plain import json_text
from .outbox import Outbox

TOKEN = "FILTUNE_WEBHOOK_TOKEN"
"""Environment variable with the token of the receiver."""

TIMEOUT = 10.0
"""Seconds that a try may take as a whole, and the end of a command waits for the last one."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds between two tries: the first, doubled up to the last."""


class _NoRedirect(HTTPRedirectHandler):
    """Handler that follows no redirect: what it leads to was not named by the user."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Return None, so that the redirect is an error."""
        return


class _Connections(HTTPHandler, HTTPSHandler):
    """Handler of http and https that can end its connections from another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[http.client.HTTPConnection] = []

    def http_open(self, request: Request) -> Any:
        """Open an address of http."""
        return self.do_open(self._noted(http.client.HTTPConnection), request)

    def https_open(self, request: Request) -> Any:
        """Open an address of https; the certificate is checked."""
        return self.do_open(self._noted(http.client.HTTPSConnection), request)

    def _noted(self, kind: type[http.client.HTTPConnection]) -> Any:
        def connection(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
            self._made.append(kind(*args, **kwargs))
            return self._made[-1]

        return connection

    def end(self) -> None:
        """End the connections; whoever waits for one gets an error."""
        for connection in self._made:
            with contextlib.suppress(OSError, AttributeError):  # one that is not open yet, or no longer
                connection.sock.shutdown(socket.SHUT_RDWR)


class Webhook:
    """A thread that posts events, the oldest first, and tries again until one is delivered.

    Nothing of it waits for the network but :meth:`close`, and that no longer than :data:`TIMEOUT`.

    Args:
        url: The address; of ``http`` or ``https``.
        outbox: The events.
        say: Prints a line.

    Attributes:
        failures: Tries that failed.
        delivered: Events that were delivered.

    Raises:
        ValueError: If the address or the token is none.
    """

    def __init__(self, url: str, outbox: Outbox, say: Callable[[str], None]) -> None:
        self.host, self._token = check_webhook(url), read_webhook_token(url)
        self._url, self._outbox, self._say = url, outbox, say
        self.failures = self.delivered = 0
        self._wake, self._ends = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def post(self, event: dict[str, Any]) -> None:
        """Take in an event; one that is known by its id is not sent again."""
        if self._outbox.add(event):
            with self._wake:
                self._wake.notify_all()

    def close(self) -> int:
        """Send once more what waits, and return how many events the next start has to send."""
        with self._wake:
            self._ends = True
            self._wake.notify_all()
        self._thread.join(TIMEOUT)
        return len(self._outbox)

    def _run(self) -> None:
        wait = FIRST_WAIT
        while True:
            event = self._outbox.next()
            if event is None:
                with self._wake:
                    if self._ends:
                        return
                    self._wake.wait_for(lambda: self._ends or len(self._outbox))
                continue
            is_last_try = self._ends
            fault = self._send(event)
            if fault is None:
                self.delivered, wait = self.delivered + 1, FIRST_WAIT
                self._outbox.delivered(event["id"])
                continue
            self.failures += 1
            if self.failures == 1:
                self._say(f"webhook: {self.host} did not take an alarm ({fault}); it is tried again, learning goes on")
            if is_last_try:
                return
            with self._wake:
                self._wake.wait_for(lambda: self._ends, wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _send(self, event: dict[str, Any]) -> str | None:
        """Send an event, and return what went wrong; after :data:`TIMEOUT`, whatever the receiver does.

        The timeout of a socket is of one operation: a name that is looked up, several addresses and an answer in small
        pieces take many. So the try has a thread of its own, whose connection is ended.
        """
        headers = {"Content-Type": "application/json", "User-Agent": "filtune", "Idempotency-Key": event["id"]}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = Request(self._url, json_text(event).encode(), headers, method="POST")
        connections, faults = _Connections(), []
        opener, seconds = build_opener(_NoRedirect(), connections), TIMEOUT
        thread = threading.Thread(
            target=lambda: faults.append(_fault_of(opener, request, seconds)), name="webhook try", daemon=True
        )
        thread.start()
        thread.join(seconds)
        if faults:
            return faults[0]
        connections.end()
        return f"no answer within {seconds:g} s"


def _fault_of(opener: OpenerDirector, request: Request, seconds: float) -> str | None:
    """Send a request, and return what went wrong; each operation of its socket may take so many seconds."""
    try:
        with opener.open(request, timeout=seconds):
            return None
    except HTTPError as error:
        error.close()
        return f"status {error.code}" + (", a redirect, which is not followed" if 300 <= error.code < 400 else "")
    except Exception as error:  # of whatever kind: the try has failed
        return " ".join(str(getattr(error, "reason", None) or error).split())[:200] or type(error).__name__


def check_webhook(url: str) -> str:
    """Check the address of a webhook and its token, and return the host, which is all of it that messages show.

    Raises:
        ValueError: If it is no address, or holds a password; or if the token cannot be sent there.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"--webhook: it is no address ({error}); write https://HOST/PATH") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"--webhook: an address of http or https is needed, got {url[:80]!r}; write https://HOST/PATH")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError("--webhook: the address has a character that must be written as %XX, or a host as xn--")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"--webhook: no password in the address, which others can read; set {TOKEN}")
    read_webhook_token(url)
    return host


def read_webhook_token(url: str) -> str:
    """Return the token of the environment; empty where there is none.

    Raises:
        ValueError: If it cannot be sent, or would be sent unencrypted to another machine.
    """
    token, parts = os.environ.get(TOKEN, "").strip(), urlsplit(url)
    if not token:
        return ""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{TOKEN}: has a character that cannot be in a header; letters, digits and -._~+/= can")
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise ValueError(f"--webhook: the token of {TOKEN} would be sent unencrypted; take https, or unset it")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def now() -> str:
    """Return the time of now, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
