"""A file of the events that are to be sent, and of those that were: it survives kills, and knows every event once."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from filtune.lightning_modules.atomic import atomic_write

from ..plain import json_text

REMEMBERED = 10_000
"""Events that are remembered, the newest."""

MOST_WAITING = 1000
"""Events that wait to be sent, the newest."""


class Outbox:
    """Events by id, each with whether it was delivered.

    An event is written before it is sent, and a line follows once it was delivered. Samples that are learned again
    after a kill raise the same events with the same ids, which are known here and not sent again. Only an event whose
    receiver had answered, and whose line was not yet written when the process was killed, is sent twice.

    Args:
        path: The file.

    Attributes:
        dropped: Events that were given up because too many waited.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.dropped = path, 0
        self._lock = threading.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._waiting: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lines = 0
        if path.is_file():
            self._read()

    def _read(self) -> None:
        """Read what is there, and write it anew; an incomplete line was never sent."""
        for line in self.path.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
                id = entry.get("delivered") or entry["event"]["id"]
            except (ValueError, LookupError, AttributeError, TypeError):
                continue
            self._known[id] = None
            self._waiting.pop(id, None)
            if "event" in entry:
                self._waiting[id] = entry["event"]
        self._bound()
        self._compact()

    def _compact(self) -> None:
        """Write the file anew, without what is too old and with one line for each event."""
        rows: list[dict[str, Any]] = [{"delivered": id} for id in self._known if id not in self._waiting]
        rows += [{"event": event} for event in self._waiting.values()]
        with atomic_write(self.path) as file:
            file.writelines(json_text(row) + "\n" for row in rows)
        self._lines = len(rows)

    def add(self, event: dict[str, Any]) -> bool:
        """Take in an event to be sent; returns False for one that is known."""
        with self._lock:
            if event["id"] in self._known:
                return False
            self._known[event["id"]] = None
            self._waiting[event["id"]] = event
            self._bound()
            self._write({"event": event})
            return True

    def next(self) -> dict[str, Any] | None:
        """Return the oldest event that was not delivered; None where there is none."""
        with self._lock:
            return next(iter(self._waiting.values()), None)

    def delivered(self, id: str) -> None:
        """Mark an event as delivered."""
        with self._lock:
            self._waiting.pop(id, None)
            self._write({"delivered": id})

    def __len__(self) -> int:
        """Return how many events wait."""
        with self._lock:
            return len(self._waiting)

    def _bound(self) -> None:
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popitem(last=False)
            self.dropped += 1
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _write(self, row: dict[str, Any]) -> None:
        """Append a line; where that fails, as on a full disk, the event is sent all the same."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json_text(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._lines += 1
            if self._lines > 2 * REMEMBERED + len(self._waiting):
                self._compact()
        except OSError:
            return
