"""A stream on a Redis server: its address, its errors in one line, and waiting for a server that is away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from filtune.lightning_modules import signals

from ..notices import print_line

T = TypeVar("T")

PASSWORD = "FILTUNE_REDIS_PASSWORD"
"""Environment variable of the password: other users of a machine can read a command line."""

SCHEMES = ("redis", "rediss", "unix")

SHORTEST, LONGEST = 0.1, 10.0
"""Seconds between two attempts to reach a server that is away: they double up to the longest."""

TIMEOUT = 10.0
"""Seconds after which a server that does not answer is away."""

NEEDS = "Redis 7 or newer, or Valkey, is needed"


class RedisStream:
    """A stream on a Redis server.

    Args:
        address: ``redis://[USER:PASSWORD@]HOST[:PORT][/DB]?stream=NAME``, ``rediss://`` with TLS, or
            ``unix:///PATH?stream=NAME&db=0``. Further options are those given by ``names``, and those of redis-py.
        option: The option of the command line, for messages.
        names: Options that belong to the source or the output.

    Attributes:
        key: Name of the stream.
        own: The options given, by name.
        name: The stream and its server, without a password.
        client: The client of redis-py.

    Raises:
        ValueError: If the address is none, or the server cannot be reached or refuses.
    """

    def __init__(self, address: str, option: str, names: Iterable[str]) -> None:
        try:
            import redis
        except ImportError as error:
            raise ValueError(f"{option}: Redis needs a package more: pip install 'filtune[redis]'") from error
        from redis.backoff import ExponentialBackoff, NoBackoff
        from redis.retry import Retry

        parts, self.option = urlsplit(address), option
        given = dict(parse_qsl(parts.query))
        self.own = {name: given.pop(name) for name in ("stream", *names) if name in given}
        self.key = self.own.get("stream", "")
        place = parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2] + parts.path
        self.name = f"{self.key!r} at {place or 'localhost'}"
        if not self.key:
            raise ValueError(f"{option}: {place} names no stream; append ?stream=NAME")
        self.errors, self._pauses = redis.exceptions, ExponentialBackoff(LONGEST, SHORTEST / 2)
        bare = f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(given)}"
        # a command that is repeated by the client would skip the entries that the first answer had
        fixed = {"retry": Retry(NoBackoff(), 0), "protocol": 2, "client_name": "filtune"}
        limits = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), TIMEOUT)
        try:
            self.client = redis.Redis.from_url(bare, password=os.environ.get(PASSWORD), **fixed, **limits)
            self.client.ping()
        except (TypeError, ValueError, self.errors.RedisError, OSError) as error:
            raise self.refusal(error) from error

    def refusal(self, error: Exception) -> ValueError:
        """Return the message on an error, in one line."""
        said = " ".join(str(error).split()).rstrip(".")
        remedy = ""
        if isinstance(error, self.errors.AuthenticationError | self.errors.NoPermissionError) or "NOAUTH" in said:
            remedy = f"; the password is {PASSWORD}, or a part of the address, as is the user"
        elif "WRONGTYPE" in said:
            return ValueError(f"{self.option}: {self.name} is no stream but another type; name a stream")
        elif isinstance(error, TypeError):
            said, remedy = f"an option of the address is unknown ({said.rpartition(' ')[2]})", "; leave it out"
        elif isinstance(error, self.errors.ConnectionError):
            remedy = "; start the server, or correct the address"
        elif "unknown command" in said or "syntax error" in said:
            remedy = f"; {NEEDS}"
        return ValueError(f"{self.option}: {self.name}: {said}{remedy}")

    def is_away(self, error: Exception) -> bool:
        """Return whether an error passes: the server is away, starts, has no memory left, or cannot write its disk."""
        errors = self.errors
        if isinstance(error, errors.AuthenticationError | errors.AuthorizationError):
            return False
        passing = (errors.ConnectionError, errors.TimeoutError, errors.ReadOnlyError, errors.OutOfMemoryError, OSError)
        return isinstance(error, passing) or str(error).startswith(("MISCONF", "NOREPLICAS"))

    def call(self, action: Callable[[], T], away: Callable[[], None] = lambda: None) -> T:
        """Return what an action returns, once the server is there; an action may be carried out more than once.

        Args:
            action: What is to be done.
            away: Called when the server was found to be away.

        Raises:
            Stopped: If a signal came while the server was away.
            ValueError: If the server refuses.
        """
        failures = 0
        while True:
            try:
                found = action()
            except (self.errors.RedisError, OSError) as error:
                if not self.is_away(error):
                    raise self.refusal(error) from error
                if not failures:
                    print_line(f"{self.name}: {' '.join(str(error).split())}; waits for the server")
                failures += 1
                away()
                self._pause(self._pauses.compute(failures))
            else:
                if failures:
                    print_line(f"{self.name} is back")
                return found

    def _pause(self, seconds: float) -> None:
        """Wait some seconds, or until a signal that was deferred comes.

        Raises:
            Stopped: If one came.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if signals.pending():
                raise signals.Stopped(signals.pending())
            time.sleep(min(left, 0.2))

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
