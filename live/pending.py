"""Samples that wait for their labels."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from .plain import check_id

Id = str | int
"""What a sample is known by until its label comes."""


class Waiting(NamedTuple):
    """A sample without its label.

    Attributes:
        sample: The sample, as the backbone takes it.
        answer: What was predicted for it; None where no prediction was asked for.
        was_predicted: Whether one was.
    """

    sample: Any
    answer: Any = None
    was_predicted: bool = False


class Pending:
    """A bounded buffer of samples by id, the oldest first.

    When it is full, the oldest sample is dropped and counted. A label whose sample is not there, because it was
    dropped, was labelled before or never seen, changes nothing and is counted. An id that comes again replaces its
    sample.

    Args:
        most: Most samples; 0 keeps none.

    Attributes:
        dropped: Samples that were dropped before their label came.
        unknown: Labels that came for no sample.
        replaced: Samples whose id came again before their label.

    Raises:
        ValueError: If ``most`` is negative.
    """

    def __init__(self, most: int) -> None:
        if most < 0:
            raise ValueError(f"max_pending: must be a number of samples, or 0 for none; got {most}")
        self.most = most
        self.dropped = self.unknown = self.replaced = 0
        self._waiting: OrderedDict[Id, Waiting] = OrderedDict()

    def __len__(self) -> int:
        """Return how many samples wait."""
        return len(self._waiting)

    def __contains__(self, id: Id) -> bool:
        """Return whether a sample waits under this id."""
        return id in self._waiting

    def add(self, id: Id, waiting: Waiting) -> None:
        """Let a sample wait.

        Raises:
            ValueError: If the id is neither a text nor an integer.
        """
        check_id(id)
        self.replaced += self._waiting.pop(id, None) is not None
        self._waiting[id] = waiting
        while len(self._waiting) > self.most:
            self._waiting.popitem(last=False)
            self.dropped += 1

    def take(self, id: Id) -> Waiting | None:
        """Return the sample of an id, which waits no longer; None where there is none.

        Raises:
            ValueError: If the id is neither a text nor an integer.
        """
        check_id(id)
        found = self._waiting.pop(id, None)
        self.unknown += found is None
        return found

    def drop(self, id: Id) -> None:
        """Remove the sample of an id that came again with its label; there need be none."""
        self.replaced += self._waiting.pop(id, None) is not None

    def discard(self, id: Id | None) -> None:
        """Remove the sample of an id from which nothing will be learned; there need be none."""
        if id is not None:
            self.dropped += self._waiting.pop(id, None) is not None

    def state(self) -> dict[str, Any]:
        """Return everything in plain values and tensors."""
        return {
            "waiting": [[id, *waiting] for id, waiting in self._waiting.items()],
            "counts": [self.dropped, self.unknown, self.replaced],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned; a buffer that is smaller now keeps the newest."""
        self._waiting.clear()
        for id, *waiting in state["waiting"]:
            sample = tuple(waiting[0]) if isinstance(waiting[0], list) else waiting[0]
            self.add(id, Waiting(sample, *waiting[1:]))
        self.dropped, self.unknown, self.replaced = state["counts"]
