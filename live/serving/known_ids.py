"""Knowledge of a service by id: the samples that wait for their label, and those that were learned."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Literal

from ..pending import Id
from .journal import Operation

Outcome = Literal["accepted", "waiting", "duplicate", "unknown", "rejected"]
"""What becomes of an operation; ``rejected``: it was accepted, and is found to be wrong when it is applied."""

REMEMBERED = 100_000
"""Learned ids that are remembered, the newest: a label that is sent again within so many samples is learned once."""


class KnownIds:
    """Decisions by id on what becomes of an operation. Equal operations in equal order have equal outcomes.

    Args:
        most_waiting: Most samples that wait, as many as the learner keeps.
        remembered: Most learned ids.
    """

    def __init__(self, most_waiting: int, remembered: int = REMEMBERED) -> None:
        self.most_waiting, self.remembered = most_waiting, remembered
        self._waiting: OrderedDict[Id, None] = OrderedDict()
        self._learned: OrderedDict[Id, None] = OrderedDict()

    def take(self, operation: Operation) -> Outcome:
        """Return the outcome of the next operation, and take note of it."""
        kind, id = operation["op"], operation.get("id")
        if kind == "options":
            self.most_waiting = operation["max_pending"]
            _bound(self._waiting, self.most_waiting)
        if id is None:
            return "accepted"
        if id in self._learned or (kind == "wait" and id in self._waiting):
            return "duplicate"
        if kind == "wait":
            self._waiting[id] = None
            _bound(self._waiting, self.most_waiting)
            return "waiting"
        if kind == "label" and id not in self._waiting:
            return "unknown"
        self._waiting.pop(id, None)
        self._learned[id] = None
        _bound(self._learned, self.remembered)
        return "accepted"

    def __contains__(self, id: Id) -> bool:
        """Return whether a sample waits under this id."""
        return id in self._waiting

    def state(self) -> dict[str, Any]:
        """Return everything as lists."""
        return {"waiting": list(self._waiting), "learned": list(self._learned)}

    def load(self, state: dict[str, Iterable[Id]]) -> None:
        """Restore what :meth:`state` returned."""
        self._waiting = OrderedDict.fromkeys(state["waiting"])
        self._learned = OrderedDict.fromkeys(state["learned"])
        _bound(self._waiting, self.most_waiting)
        _bound(self._learned, self.remembered)


def _bound(ids: OrderedDict[Id, None], most: int) -> None:
    while len(ids) > most:
        ids.popitem(last=False)
