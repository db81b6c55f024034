"""Options that decide what becomes of an operation. A change of them is an operation of the log itself.

What was accepted under the options of before is thus learned under them when the log is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ..growth import check_growth
from ..labels import Labels
from ..learner import OnlineLearner
from ..pending import Pending
from .journal import Operation

NewClasses = Literal["refuse", "add"]
"""What is done with a label that is no class."""


def change_of(
    learner: OnlineLearner,
    new_classes: NewClasses | None,
    max_pending: int | None,
    monitor: Mapping[str, Any] | None = None,
) -> Operation | None:
    """Return the operation that changes a learner's options to those asked for; None where it has them.

    Args:
        learner: The learner.
        new_classes: ``refuse`` or ``add``; None leaves it.
        max_pending: Most samples that wait for their labels; None leaves it.
        monitor: Options of :meth:`LearnerMonitor.plan`; those that are not given are left.

    Raises:
        ValueError: If the learner cannot take them.
    """
    has: dict[str, Any] = {"takes_new": learner.labels.takes_new, "max_pending": learner.pending.most}
    has["monitor"] = learner.monitor.options()
    asked = {**has, "monitor": learner.monitor.plan(**(monitor or {}))}
    if new_classes is not None:
        asked["takes_new"] = new_classes == "add"
    if max_pending is not None:
        asked["max_pending"] = max_pending
    if asked == has:
        return None
    operation = {"op": "options", **asked}
    _parts(learner, operation)
    return operation


def change(learner: OnlineLearner, operation: Operation) -> None:
    """Change a learner's options; of the samples that wait, the newest are kept.

    Operations of earlier releases have no options of the monitor, and leave them.
    """
    with learner.lock:
        labels, pending = _parts(learner, operation)
        pending.load(learner.pending.state())
        learner.labels, learner.pending = labels, pending
        learner.settings = replace(learner.settings, takes_new=labels.takes_new, max_pending=pending.most)
        if "monitor" in operation:
            learner.configure_monitor(operation["monitor"])


def _parts(learner: OnlineLearner, operation: Operation) -> tuple[Labels, Pending]:
    labels = learner.labels
    found = Labels(labels.kind, labels.values, labels.options, operation["takes_new"])
    if found.takes_new:
        check_growth(learner.model, learner.optimizer)
    return found, Pending(operation["max_pending"])
