"""Requests to a service under way, and their answers."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .journal import Operation, Payload
from .known_ids import Outcome


class Refused(Exception):
    """A request that changes the learner is not accepted now.

    Args:
        reason: Why, in one line.
        retry_after: Seconds after which it may be; None where a person must look first.
    """

    def __init__(self, reason: str, retry_after: int | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Answer(NamedTuple):
    """A prediction of the service.

    Attributes:
        prediction: The class, the list of classes, or the number; None before there are classes.
        probability: The probability of each class by its name, where there are classes.
    """

    prediction: Any
    probability: dict[str, float] | None


@dataclass
class Ticket:
    """A request under way.

    Attributes:
        payload: What is written.
        operations: The same, to be learned.
        durable: The outcomes, once the request is on the disk.
        applied: The outcomes, once it was learned; some may be ``rejected`` by then.
    """

    payload: Payload
    operations: list[Operation]
    durable: Future[list[Outcome]] = field(default_factory=Future)
    applied: Future[list[Outcome]] = field(default_factory=Future)

    def __post_init__(self) -> None:
        """Keep a client that leaves from cancelling what is under way."""
        self.durable.set_running_or_notify_cancel()
        self.applied.set_running_or_notify_cancel()

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        for future in (self.durable, self.applied):
            if not future.done():
                future.set_exception(error)
