"""A Redis stream as an output: an answer has the id of its sample, so that it cannot be there twice."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from ..notices import print_line
from ..plain import json_text
from .base import AnswerOutput
from .redis_server import SCHEMES, RedisStream
from .redis_source import NOTHING, id_order

FIELD = "json"

DELAY = 0.1
"""Seconds that an answer waits for others at most, while the samples are available."""


class RedisOutput(AnswerOutput):
    """The answers as entries of a Redis stream, with the line of JSON in the field ``json``.

    The id of an answer is that of the entry it answers, or ``LINE-0`` for a line of a file. Ids of a stream only grow,
    so that the server refuses an answer that is written again after a kill, and the first one stays.

    Args:
        address: That of the stream, with ``maxlen`` as a further option: entries to keep, about; by default all.
        state: What :meth:`state` returned; None where there is no state.

    Raises:
        ValueError: If the stream has entries of something else.
    """

    schemes: ClassVar = SCHEMES

    def __init__(self, address: str, state: Any) -> None:
        self.stream = RedisStream(address, "--output", ("maxlen",))
        self.client, self.key = self.stream.client, self.stream.key
        most = self.stream.own.get("maxlen")
        if most is not None and not (most.isdecimal() and int(most)):
            raise ValueError(f"--output: maxlen must be a number of entries, got {most!r}")
        self.most = None if most is None else int(most)
        self._unwritten: list[Mapping[str, Any]] = []
        self._sent = time.monotonic()
        if state not in (None, 0) and (not isinstance(state, dict) or state["stream"] != self.key):
            raise ValueError(f"--output: the state has written to something else than {self.stream.name}; name that")
        self._written: str = state["last"] if state else NOTHING
        try:
            self._known = self._check_start(is_new=not state)
        except (self.stream.errors.RedisError, OSError) as error:
            raise self.stream.refusal(error) from error

    def write(self, row: Mapping[str, Any], is_ready: bool = False) -> None:
        """Write an answer; with others where the next sample is available, after :data:`DELAY` at the latest."""
        self._unwritten.append(row)
        if not is_ready or time.monotonic() - self._sent > DELAY:
            self._flush()

    def state(self) -> dict[str, Any]:
        """Return the stream and the id of the last answer, once the server has all.

        Raises:
            Stopped: If a signal came while the server was away.
        """
        self._flush()
        return {"stream": self.key, "last": self._written}

    def close(self) -> None:
        """Close the connections."""
        self.stream.close()

    def _flush(self) -> None:
        """Send what is unwritten; while the server is away it waits."""
        if self._unwritten:
            self.stream.call(self._send)
            self._written = _id_of(self._unwritten[-1])
            self._unwritten.clear()
        self._sent = time.monotonic()

    def _send(self) -> None:
        """Write the answers that are not there yet."""
        pipe = self.client.pipeline(transaction=False)
        for row in self._unwritten:
            line = json_text(row, ensure_ascii=False).encode(errors="backslashreplace")
            pipe.xadd(self.key, {FIELD: line}, id=_id_of(row), maxlen=self.most)
        for row, found in zip(self._unwritten, pipe.execute(raise_on_error=False), strict=True):
            if isinstance(found, Exception):
                self._check_written(_id_of(row), found)

    def _check_written(self, id: str, error: Exception) -> None:
        """Check that an answer was refused because it was written before.

        Raises:
            ValueError: If the stream has an entry of something else.
        """
        if "equal or smaller" not in str(error):
            raise error
        found = self.client.xrange(self.key, id, id)
        # one that was written before and is gone has been read and deleted since
        if not _is_own(*found[0]) if found else id_order(id) > id_order(self._known):
            raise self._foreign(id) from error

    def _check_start(self, is_new: bool) -> str:
        """Return the id up to which the stream was written when this process began.

        Raises:
            ValueError: If the stream has entries of something else.
        """
        if not self.client.exists(self.key):
            if self._written != NOTHING:
                print_line(f"{self.stream.name} is gone, up to entry {self._written}")
            return NOTHING
        newest = self.client.xinfo_stream(self.key)["last-generated-id"].decode()
        last = self.client.xrevrange(self.key, count=1)
        if newest != NOTHING and is_new:
            raise ValueError(f"--output: {self.stream.name} has entries that are not of this state; name a new stream")
        if last and not _is_own(*last[0]):
            raise self._foreign(last[0][0].decode())
        if id_order(newest) < id_order(self._written):
            print_line(f"{self.stream.name} ends at {newest}, before {self._written}: the server has lost answers")
        return newest

    def _foreign(self, id: str) -> ValueError:
        return ValueError(
            f"--output: {self.stream.name} has an entry of something else at {id}; name a stream of its own, and "
            "another --state for it"
        )


def _id_of(row: Mapping[str, Any]) -> str:
    return row.get("entry") or f"{row['line']}-0"


def _is_own(id: bytes, fields: Mapping[bytes, bytes]) -> bool:
    """Return whether an entry is an answer, by its id."""
    try:
        return _id_of(json.loads(fields[FIELD.encode()])) == id.decode()
    except (KeyError, ValueError, TypeError, AttributeError):
        return False
