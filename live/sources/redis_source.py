"""Redis Streams as a source: a consumer group whose position is that of the saved state."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import uuid4

from ..notices import print_line
from .base import RawSample, SampleSource, SourceOptions, TextFields
from .lines import LONGEST
from .redis_server import NEEDS, SCHEMES, RedisStream

COUNT = 64
"""Most entries of one reading, which is all that is read ahead."""

BLOCK = 1000
"""Milliseconds of one wait for an entry."""

NOTHING = "0-0"
"""Id before the first entry."""


class RedisSource(SampleSource):
    """The entries of a Redis stream, through a consumer group.

    The position of the saved state is the truth: at the start, and when the server was away, the group is set back to
    it (``XGROUP SETID``), so that entries that were delivered and not saved come again and those that were saved do
    not. Entries are acknowledged when a state that has learned from them is on the disk. As the order of the samples is
    part of the state, a group belongs to one learner.

    An entry has the field ``json`` with a JSON object, or the columns as fields. Beside its id, the position has the
    number of entries that were ever added up to it, by which entries that were deleted unread are detected.

    Args:
        address: That of the stream, with ``group`` (filtune) and ``field`` (json) as further options.
        options: The options.
        state: What :meth:`state` returned; None to begin.

    Attributes:
        lost: Entries that were deleted before they were read.

    Raises:
        ValueError: If there is no such stream, or another consumer reads the group.
    """

    schemes: ClassVar = SCHEMES

    def __init__(self, address: str, options: SourceOptions, state: Mapping[str, Any] | None = None) -> None:
        super().__init__(address, options, state)
        if options.skip_read:
            raise ValueError("--skip_read: a Redis stream goes on where it was left anyway; leave it out")
        self.stream = RedisStream(address, "--input", ("group", "field"))
        self.client, self.key, self.name = self.stream.client, self.stream.key, self.stream.name
        self.group = self.stream.own.get("group", "filtune")
        self.field = self.stream.own.get("field", "json").encode()
        given = {"stream": self.key, "group": self.group}
        saved = {name: (state or given).get(name) for name in given}
        if saved != given:
            raise ValueError(
                f"--input: the state has read stream {saved['stream']!r} as group {saved['group']!r}, not {self.key!r} "
                f"as {self.group!r}; name that one, or another --state"
            )
        self.consumer = state["consumer"] if state else f"filtune-{uuid4().hex[:12]}"
        self.lost = state["lost"] if state else 0
        self.position: tuple[str, int] | None = (state["entry"], state["added"]) if state else None
        self._fetched: deque[tuple[RawSample, tuple[str, int]]] = deque()
        self._last: tuple[str, int] | None = None  # the position of the group, that of the last entry fetched
        self._said_rollback = False
        try:
            self._check_start(options.follow)
            self._join()
        except (self.stream.errors.RedisError, OSError) as error:
            raise self.stream.refusal(error) from error

    def take(self) -> tuple[RawSample, tuple[str, int]] | None:
        """Return the next entry; without ``--follow`` None where all are read."""
        while not self._fetched:
            self.stream.call(self._fetch, self._leave)
            if not self._fetched:
                if not self.options.follow:
                    return None
                self.stream.call(self._wait, self._leave)
        return self._fetched.popleft()

    @property
    def is_ready(self) -> bool:
        """Readiness of the next entry, which was fetched with others."""
        return bool(self._fetched)

    def state(self) -> dict[str, Any]:
        """Return the position, the group and the consumer."""
        assert self.position is not None
        entry, added = self.position
        names = {"stream": self.key, "group": self.group, "consumer": self.consumer}
        return {"count": self.count, "entry": entry, "added": added, "lost": self.lost, **names}

    def acknowledge(self) -> None:
        """Let the server forget what is up to the position; where it is away, the next save does it."""
        assert self.position is not None
        until, own = self.position[0], {"consumername": self.consumer}
        try:
            while found := self.client.xpending_range(self.key, self.group, "-", until, 1000, **own):
                self.client.xack(self.key, self.group, *(each["message_id"] for each in found))
        except (self.stream.errors.RedisError, OSError):
            return

    @property
    def counts(self) -> dict[str, int]:
        """The entries that were lost, if any were."""
        return {"lost": self.lost} if self.lost else {}

    def describe(self) -> dict[str, Any]:
        """Return the number and the id of the last entry."""
        assert self.position is not None
        return {"line": self.count, "entry": self.position[0]}

    def close(self) -> None:
        """Close the connections."""
        self.stream.close()

    def _check_start(self, follow: bool) -> None:
        """Check that the stream is there, and that nobody else reads the group.

        Raises:
            ValueError: If not.
        """
        if not self.client.exists(self.key):
            if not follow:
                raise ValueError(f"--input: there is no stream {self.name}; correct the name, or wait for it: --follow")
            return print_line(f"there is no stream {self.name} yet; waits for it")
        if self.group not in (each["name"].decode() for each in self.client.xinfo_groups(self.key)):
            return None
        for each in self.client.xinfo_consumers(self.key, self.group):
            if (other := each["name"].decode()) != self.consumer:
                raise ValueError(
                    f"--input: the group {self.group!r} of {self.name} has the consumer {other!r} ({each['pending']} "
                    "entries pending), which is not that of this --state; name a group of its own: group=NAME"
                )
        return None

    def _leave(self) -> None:
        """Let the group be joined again, as the server was away."""
        self._last = None
        self._fetched.clear()

    def _join(self) -> None:
        """Set the group to the position; make what is not there."""
        errors, position = self.stream.errors, self.position
        try:
            start, added = position or (NOTHING, 0)
            self.client.xgroup_create(self.key, self.group, start, mkstream=True, entries_read=added)
            if position and self.count:
                print_line(f"the group {self.group!r} of {self.name} was gone; it is made again after entry {start}")
        except errors.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            if position:
                self.client.xgroup_setid(self.key, self.group, position[0], entries_read=position[1])
        info = self.client.xinfo_stream(self.key)
        if "entries-added" not in info:
            raise ValueError(f"--input: {self.name}: {NEEDS}")
        if position is None:
            found = next(each for each in self.client.xinfo_groups(self.key) if each["name"].decode() == self.group)
            entry, read = found["last-delivered-id"].decode(), found["entries-read"]
            # what was deleted before the group began is not lost to it
            gone = info["entries-added"] - info["length"]
            self.position = entry, gone if entry == NOTHING else info["entries-added"] if read is None else read
        self._last = self.position

    def _fetch(self) -> None:
        """Take the next entries from the server, and the state of the stream at the same moment."""
        if self._last is None:
            self._join()
        pipe = self.client.pipeline(transaction=True)
        pipe.xinfo_stream(self.key)
        pipe.xinfo_groups(self.key)
        pipe.xreadgroup(self.group, self.consumer, {self.key: ">"}, count=COUNT)
        try:
            info, groups, found = pipe.execute()
        except self.stream.errors.ResponseError as error:
            if not ("NOGROUP" in str(error) or "no such key" in str(error)):
                raise
            self._leave()  # the group was deleted
            return self._fetch()
        self._check_position(groups)
        self._check_lost(info)
        assert self._last is not None
        for id, fields in found[0][1] if found else ():
            self._last = id.decode(), self._last[1] + 1
            self._fetched.append((self._sample(fields), self._last))
        return None

    def _check_position(self, groups: list[dict[str, Any]]) -> None:
        """Check that the group is where it was left.

        Raises:
            ValueError: If something else has read it, or set it.
        """
        assert self._last is not None
        found = next(each["last-delivered-id"].decode() for each in groups if each["name"].decode() == self.group)
        if found != self._last[0]:
            raise ValueError(
                f"--input: something else reads {self.name} as group {self.group!r}: it is at {found}, not at "
                f"{self._last[0]}; name a group of its own: group=NAME"
            )

    def _check_lost(self, info: Mapping[str, Any]) -> None:
        """Report entries that were deleted before they were read, and a stream that ends before the position."""
        assert self._last is not None
        last, read = self._last
        added, newest = info["entries-added"], info["last-generated-id"].decode()
        if id_order(newest) < id_order(last):
            if not self._said_rollback:
                print_line(
                    f"{self.name} ends at {newest}, before {last}, up to which the state has learned: the server has "
                    "lost entries, or it is another stream; entries up to that id are not read"
                )
            self._said_rollback = True
            self.position = self._last = last, added
            return
        self._said_rollback = False
        first = info["first-entry"]
        expected = read
        if id_order(newest) == id_order(last):
            expected = added
        elif first and id_order(first[0].decode()) > id_order(last):
            expected = added - info["length"]
        if expected > read:
            self.lost += expected - read
            print_line(f"{self.name}: {expected - read} entries after {last} were deleted before they were read")
        self.position = self._last = last, expected  # nothing that was fetched waits now

    def _wait(self) -> None:
        """Wait for an entry, for a second at most; nothing is read."""
        if self._last is not None:
            self.client.xread({self.key: self._last[0]}, count=1, block=BLOCK)

    def _sample(self, fields: Mapping[bytes, bytes]) -> RawSample:
        """Return the columns of an entry, or its JSON object."""
        if sum(map(len, fields.values())) > LONGEST:
            return None
        if self.field in fields:
            return fields[self.field]
        return TextFields({str(_text(name)): _text(value) for name, value in fields.items()})


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def id_order(id: str) -> tuple[int, int]:
    """Return an id as two numbers that are ordered as ids are."""
    time, _, sequence = id.partition("-")
    return int(time), int(sequence or 0)
