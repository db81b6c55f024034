"""Alarms as a command reports them: a line on standard error, a field of the answer, a webhook, and its exit status."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..notices import print_line
from .comparison import Comparison
from .monitor import Event, LearnerMonitor
from .outbox import Outbox
from .rules import DRIFT
from .webhook import Webhook, now

ALARM_STATUS = 4
"""Exit status of a command that an alarm has ended."""


FIRST_TABLE = 100
"""Predictions before the first table of a comparison; then whenever they have doubled."""


class WatchReports:
    """Reports alarms as they come, and from time to time how a learner compares with its shadows.

    Args:
        monitor: The monitor of the learner.
        name: What the receiver of a webhook knows the stream by.
        webhook: Address to which alarms are posted; None for none.
        outbox: File of the alarms that are to be posted.
        stop_on_alarm: Whether the command is to end when an alarm comes on.
        comparison: The learner, and others that see the same samples; None for none.

    Attributes:
        stops: Whether the command is to end now.

    Raises:
        ValueError: If the address is none, or there is no alarm to report.
    """

    def __init__(
        self,
        monitor: LearnerMonitor,
        name: str,
        webhook: str | None,
        outbox: Path,
        stop_on_alarm: bool = False,
        comparison: Comparison | None = None,
    ) -> None:
        self._comparison, self._monitor = comparison, monitor
        for option, given in (("--webhook", webhook), ("--stop_on_alarm", stop_on_alarm)):
            if given and not self._monitor.alarms:
                raise ValueError(f"{option}: there is no alarm; give one by --alarm, such as 'accuracy < 0.7'")
        self._name, self._stop_on_alarm = name, stop_on_alarm
        self._webhook = Webhook(webhook, Outbox(outbox), print_line) if webhook else None
        self._next_table, self._stopped = FIRST_TABLE, set(self._failures())
        while comparison and self._next_table <= comparison.count:
            self._next_table *= 2
        self.stops = False

    def take(self, place: dict[str, Any]) -> dict[str, Any]:
        """Report what is new since the last call, and return what an answer says of it: ``alarms``.

        Args:
            place: The place in the stream, which documents of the webhook have as well.
        """
        return self.report(self._monitor.take_events(), place)

    def report(self, events: Iterable[Event], place: dict[str, Any]) -> dict[str, Any]:
        """Report events that were taken at a place; returns the same as :meth:`take`."""
        found = []
        for event in events:
            print_line(describe_event(event, place))
            if self._webhook:
                self._webhook.post({**event.as_dict(), "stream": self._name, **place, "time": now()})
            self.stops = self.stops or (self._stop_on_alarm and event.status == "firing")
            found.append(event.as_dict())
        if self._comparison and self._comparison.shadows:
            self._report_shadows(self._comparison)
        return {"alarms": found} if found else {}

    def _report_shadows(self, comparison: Comparison) -> None:
        for name, failure in self._failures().items():
            if name not in self._stopped:
                self._stopped.add(name)
                print_line(f"against {name}: learns no more, the others go on: {failure}")
        if comparison.count >= self._next_table:
            self._next_table *= 2
            print_line(tabulated(comparison))

    def _failures(self) -> dict[str, str]:
        shadows = self._comparison.shadows if self._comparison else {}
        return {name: shadow.failure for name, shadow in shadows.items() if shadow.failure}

    def close(self) -> None:
        """Print the comparison, and deliver what waits as far as that is possible."""
        if self._comparison and self._comparison.shadows:
            print_line(tabulated(self._comparison))
        if self._webhook and (left := self._webhook.close()):
            tries = f"{self._webhook.failures} failed tries"
            print_line(f"webhook: {left} alarms are not delivered yet after {tries}; the next start tries again")


def tabulated(comparison: Comparison) -> str:
    """Return a comparison as a table, with a line before it."""
    left_out = f"; {comparison.left_out} of {comparison.name} were not finite" if comparison.left_out else ""
    return f"compared on {comparison.count} predictions{left_out}\n{comparison.table()}"


def describe_event(event: Event, place: dict[str, Any]) -> str:
    """Return an event in one line."""
    where = "".join(f", {name} {value}" for name, value in place.items())
    if event.quantity == DRIFT:
        value = f"{event.value:g} detected so far" if event.status == "firing" else "the test is armed again"
    else:
        value = f"{event.quantity} is {event.value:.4g}"
    back = "" if event.rolled_back_to is None else f"; rolled back to the state of step {event.rolled_back_to}"
    kind = "alarm" if event.status == "firing" else "alarm cleared"
    return f"{kind}: {event.rule} ({value}, step {event.step}{where}){back}"
