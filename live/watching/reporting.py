"""Alarms as a command reports them: a line on standard error, a field of the answer, a webhook, and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .monitor import Event, LearnerMonitor
from .outbox import Outbox
from .rules import DRIFT
from .webhook import Webhook, now

ALARM_STATUS = 4
"""Exit status of a command that an alarm has ended."""


def say(text: str) -> None:
    """Print a line to standard error."""
    print(f"filtune: {text}", file=sys.stderr, flush=True)


class AlarmReports:
    """Takes the events of a monitor as they come, and reports them.

    Args:
        monitor: The monitor of the learner.
        name: What the receiver of a webhook knows the stream by.
        webhook: Address to which events are posted; None for none.
        outbox: File of the events that are to be sent.
        stop_on_alarm: Whether the command is to end when an alarm comes on.

    Attributes:
        stops: Whether the command is to end now.

    Raises:
        ValueError: If the address is none, or there is no alarm to report.
    """

    def __init__(
        self, monitor: LearnerMonitor, name: str, webhook: str | None, outbox: Path, stop_on_alarm: bool = False
    ) -> None:
        for option, given in (("--webhook", webhook), ("--stop_on_alarm", stop_on_alarm)):
            if given and not monitor.alarms:
                raise ValueError(f"{option}: there is no alarm; give one by --alarm, such as 'accuracy < 0.7'")
        self._monitor, self._name, self._stop_on_alarm = monitor, name, stop_on_alarm
        self._webhook = Webhook(webhook, Outbox(outbox), say) if webhook else None
        self.stops = False

    def take(self, **place: Any) -> list[dict[str, Any]]:
        """Report what has come on or gone off since the last call, and return it.

        Args:
            **place: The place in the stream, which documents of the webhook have as well.
        """
        found = []
        for event in self._monitor.take_events():
            say(describe(event, place))
            if self._webhook:
                self._webhook.post({**event.as_dict(), "stream": self._name, **place, "time": now()})
            self.stops = self.stops or (self._stop_on_alarm and event.status == "firing")
            found.append(event.as_dict())
        return found

    def close(self) -> None:
        """Deliver what waits, as far as that is possible."""
        if self._webhook and (left := self._webhook.close()):
            say(f"webhook: {left} alarms are not delivered yet, after {self._webhook.failures} failed tries; the next start tries again")


def describe(event: Event, place: dict[str, Any]) -> str:
    """Return an event in one line."""
    where = "".join(f", {name} {value}" for name, value in place.items())
    if event.quantity == DRIFT:
        value = f"{event.value:g} detected so far" if event.status == "firing" else "the test is armed again"
    else:
        value = f"{event.quantity} is {event.value:.4g}"
    back = "" if event.rolled_back_to is None else f"; rolled back to the state of step {event.rolled_back_to}"
    kind = "alarm" if event.status == "firing" else "alarm cleared"
    return f"{kind}: {event.rule} ({value}, step {event.step}{where}){back}"


