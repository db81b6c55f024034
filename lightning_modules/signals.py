"""Signals that stop a command: it saves what it can, and ends with the exit status that a shell expects.

SIGTERM, SIGINT and SIGHUP end a command with status 128 plus the number of the signal: 143, 130 and 129. While a model
trains, the signal is kept until the step is complete, so that a checkpoint can be saved; a second one stops at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(SystemExit):
    """A signal stops the command.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class _Pending:
    """The signal that has come, and whether it waits for the end of a step."""

    number: int | None = None
    deferred = False


_pending = _Pending()


def on_signal(number: int, frame: FrameType | None) -> None:
    """Stop the command, or note that it is to stop after the step.

    Raises:
        Stopped: Where no step is under way, or the signal comes a second time.
    """
    again, _pending.number = _pending.number is not None, number
    if again or not _pending.deferred:
        raise Stopped(number)


@contextmanager
def handled() -> Iterator[None]:
    """Handle the signals within the block, but those that are ignored, as SIGHUP is under ``nohup``."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    _pending.number, _pending.deferred = None, False
    install()
    try:
        yield
    finally:
        _pending.number, _pending.deferred = None, False
        for number, handler in before.items():
            if handler is not None:  # one that was not installed from Python
                signal.signal(number, handler)


def install() -> None:
    """Install the handlers again, as after Lightning has installed its own."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, on_signal)


def defer(deferred: bool) -> None:
    """Keep signals until :func:`pending` is asked, or not."""
    _pending.deferred = deferred


def pending() -> int:
    """Return the number of the signal that has come, 0 if none has."""
    return _pending.number or 0
