"""Ids that each name one sample of a stream: repetitions are recognised, and a label may come before its sample."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from .pending import Id


class UniqueIds:
    """The newest ids that were learned from, and the labels whose samples have not come.

    Args:
        most: Most ids, and most labels, that are remembered; beyond it the oldest are forgotten. 0 where an id may come
            again, and None for the number of the state that is loaded, or 0.

    Raises:
        ValueError: If the number is negative.
    """

    def __init__(self, most: int | None) -> None:
        if most is not None and most < 0:
            raise ValueError(f"--unique_ids: must be a number of ids, or 0 where they may come again; got {most}")
        self._asked, self.most = most, most or 0
        self._learned: OrderedDict[Id, None] = OrderedDict()
        self._early: OrderedDict[Id, Any] = OrderedDict()

    def is_learned(self, id: Id) -> bool:
        """Return whether the sample of an id was learned from."""
        return id in self._learned

    def early_label(self, id: Id) -> Any:
        """Return the label that came before its sample; None where none did."""
        return self._early.get(id)

    def keep_label(self, id: Id, y: Any) -> int:
        """Keep a label for the sample that is still to come; return how many others were dropped for it."""
        self._early[id] = y
        return _bound(self._early, self.most)

    def note_learned(self, id: Id) -> None:
        """Take note that the sample of an id was learned from."""
        self._early.pop(id, None)
        self._learned[id] = None
        _bound(self._learned, self.most)

    def state(self) -> dict[str, Any]:
        """Return everything in plain values."""
        return {
            "most": self.most,
            "learned": list(self._learned),
            "early": [list(pair) for pair in self._early.items()],
        }

    def load(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """Restore what :meth:`state` returned; with a smaller number the newest.

        Returns:
            How many ids, and how many labels, were dropped.
        """
        self._learned = OrderedDict.fromkeys(state["learned"])
        self._early = OrderedDict((id, y) for id, y in state["early"])
        if self._asked is None:  # states of earlier releases have no number
            self.most = state.get("most") or max(len(self._learned), len(self._early))
        return _bound(self._learned, self.most), _bound(self._early, self.most)


def _bound(ids: OrderedDict[Id, Any], most: int) -> int:
    """Remove the oldest beyond a number, and return how many."""
    dropped = max(0, len(ids) - most)
    for _ in range(dropped):
        ids.popitem(last=False)
    return dropped
