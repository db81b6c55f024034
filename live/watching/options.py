"""Options of the commands that watch a learner; parsed before torch is imported."""

from __future__ import annotations

import argparse
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``filtune learn`` and ``filtune serve`` have in common."""
    group = parser.add_argument_group("watching", "What the state has stays where an option is left out.")
    add = group.add_argument
    rules = "'accuracy < 0.7', 'log_loss > 1 until 0.9 after 200', 'drift', a file of YAML, or 'none'; repeatable"
    add("--alarm", action="append", metavar="RULE", help=rules)
    add("--window", type=int, metavar="N", help="predictions that the figures of alarms are over (default 1000)")
    add("--webhook", metavar="URL", help="post alarms there as JSON; its token is in FILTUNE_WEBHOOK_TOKEN")
    add("--keep_states", type=int, metavar="N", help="states without alarm to go back to, every 200 steps (default 0)")
    add("--rollback_on_alarm", action=argparse.BooleanOptionalAction, default=None,
        help="go back to the last state without alarm when one comes on")  # fmt: skip


def monitor_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :meth:`LearnerMonitor.plan` that were given.

    Raises:
        ValueError: Naming an option that is wrong.
    """
    from .rules import read_rules

    alarms = None if options.alarm is None else [] if options.alarm == ["none"] else read_rules(options.alarm)
    names = ("window", "keep_states", "rollback_on_alarm")
    return {"alarms": alarms, **{name: getattr(options, name) for name in names}}
