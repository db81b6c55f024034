"""Ids that each name one sample of a stream: repetitions are recognised, and a label may come before its sample."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from .pending import Id


class UniqueIds:
    """The newest ids that were learned from, and the labels whose samples have not come.

    Args:
        most: Most ids, and most labels, that are remembered; beyond it the oldest are forgotten.

    Raises:
        ValueError: If the number is negative.
    """

    def __init__(self, most: int) -> None:
        if most < 0:
            raise ValueError(f"--unique_ids: must be a number of ids, or 0 where they may come again; got {most}")
        self.most = most
        self._learned: OrderedDict[Id, None] = OrderedDict()
        self._early: OrderedDict[Id, Any] = OrderedDict()

    def is_learned(self, id: Id) -> bool:
        """Return whether the sample of an id was learned from."""
        return id in self._learned

    def early_label(self, id: Id) -> Any:
        """Return the label that came before its sample; None where none did."""
        return self._early.get(id)

    def keep_label(self, id: Id, y: Any) -> bool:
        """Keep a label for the sample that is still to come; return that nothing was learned."""
        self._early[id] = y
        _bound(self._early, self.most)
        return False

    def note_learned(self, id: Id) -> None:
        """Take note that the sample of an id was learned from."""
        self._early.pop(id, None)
        self._learned[id] = None
        _bound(self._learned, self.most)

    def state(self) -> dict[str, Any]:
        """Return everything as lists."""
        return {"learned": list(self._learned), "early": [list(pair) for pair in self._early.items()]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned; with a smaller number the newest."""
        self._learned = OrderedDict.fromkeys(state["learned"])
        self._early = OrderedDict((id, y) for id, y in state["early"])
        _bound(self._learned, self.most)
        _bound(self._early, self.most)


def _bound(ids: OrderedDict[Id, Any], most: int) -> None:
    while len(ids) > most:
        ids.popitem(last=False)
