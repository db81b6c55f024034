"""The monitor of a learner: figures over a window, alarms, and states to go back to."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from filtune.datamodules import Task
from filtune.optimizers import Observation
from filtune.optimizers.likelihoods import likelihood_of

from .kept_states import KeptState
from .rules import DRIFT, Alarm, Rule, parse
from .window import ScoreWindow

MISSING = "missing"
"""The figure that is of labels and not of the model: its alarm is no reason to go back."""

MOST_EVENTS = 1000
"""Events that wait to be taken, the newest."""


@dataclass
class Event:
    """A change of an alarm.

    Attributes:
        id: The same whenever the same samples are learned again, and unlike that of any other event.
        rule: The rule.
        quantity: Its figure.
        status: Whether the alarm came on or went off.
        value: The value of the figure; of drift the number of drifts detected.
        samples: Predictions that were scored before.
        step: Steps taken.
        rolled_back_to: The step whose state was restored; None where none was.
    """

    id: str
    rule: str
    quantity: str
    status: Literal["firing", "cleared"]
    value: float
    samples: int
    step: int
    rolled_back_to: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain values, without figures that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class LearnerMonitor:
    """Figures over the last predictions, alarms on them, and the last states in which no alarm was on.

    Args:
        task: The task of the learner.

    Attributes:
        window: The last predictions.
        alarms: The alarms.
        keep_states: Most states that are kept.
        rollback_on_alarm: Whether an alarm restores the last of them, where no other is on.
        kept: The states, the oldest first.
        rollbacks: How often one was restored.
        stream: What the ids of events begin with; random, and saved.
        events: Events that nobody has taken yet.
    """

    def __init__(self, task: Task) -> None:
        self.window = ScoreWindow(task)
        self.alarms: list[Alarm] = []
        self.keep_states, self.rollback_on_alarm, self.rollbacks = 0, False, 0
        self.kept: deque[KeptState] = deque()
        self.stream = ""
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._drifts = 0

    def options(self) -> dict[str, Any]:
        """Return the options that :meth:`configure` has set, in plain values."""
        return {
            "alarms": [alarm.rule.text for alarm in self.alarms],
            "window": self.window.size,
            "keep_states": self.keep_states,
            "rollback_on_alarm": self.rollback_on_alarm,
            "stream": self.stream,
        }

    def plan(
        self,
        alarms: Sequence[Any] | None = None,
        window: int | None = None,
        keep_states: int | None = None,
        rollback_on_alarm: bool | None = None,
        stream: str | None = None,
    ) -> dict[str, Any]:
        """Return all options, those given checked and the others as they are.

        Raises:
            ValueError: Naming the option that is wrong.
        """
        size = self.window.size if window is None else window
        texts = [alarm.rule.text for alarm in self.alarms] if alarms is None else alarms
        rules = self._rules(texts, ScoreWindow(self.window.task, size))
        if keep_states is not None and keep_states < 0:
            raise ValueError(f"keep_states: must be a number of states, or 0 for none; got {keep_states}")
        rolls_back = self.rollback_on_alarm if rollback_on_alarm is None else rollback_on_alarm
        kept = self.keep_states if keep_states is None else keep_states
        if rolls_back and not rules:
            raise ValueError("rollback_on_alarm: there is no alarm; give alarms as well, such as 'accuracy < 0.7'")
        if rolls_back and keep_states == 0:
            raise ValueError("rollback_on_alarm: there must be a state to go back to; take keep_states of 1 or more")
        if rules and not (stream or self.stream):
            stream = secrets.token_hex(8)
        return {
            "alarms": [rule.text for rule in rules],
            "window": size,
            "keep_states": max(1, kept) if rolls_back else kept,
            "rollback_on_alarm": rolls_back,
            "stream": stream or self.stream,
        }

    def configure(self, options: dict[str, Any], drift: dict[str, Any]) -> None:
        """Take options of :meth:`plan`; alarms of rules that stay are as they were.

        Args:
            options: The options.
            drift: State of the drift test; drifts of before raise no alarm.
        """
        if options["window"] != self.window.size:
            self.window = self.window.resized(options["window"])
        before = {alarm.rule.text: alarm for alarm in self.alarms}
        if DRIFT not in before:
            self._drifts = int(drift["changes"])
        rules = self._rules(options["alarms"], self.window)
        self.alarms = [before.get(rule.text, Alarm(rule)) for rule in rules]
        self.keep_states, self.rollback_on_alarm = options["keep_states"], options["rollback_on_alarm"]
        self.kept = deque(list(self.kept)[-self.keep_states :] if self.keep_states else [])
        self.stream = options["stream"]

    def _rules(self, texts: Sequence[Any], window: ScoreWindow) -> list[Rule]:
        has_drift = likelihood_of(window.task.kind).is_softmax
        rules = [parse(text, window.names(), has_drift, window.size) for text in texts]
        return list({rule.text: rule for rule in rules}.values())

    # what happens

    def score(self, observation: Observation | None) -> None:
        """Add a batch to the window, as it was predicted; None where nothing could be."""
        if observation is not None:
            self.window.update(observation)

    def is_quiet(self, besides: str = "") -> bool:
        """Return whether no alarm is on, but for those on one figure."""
        return not any(alarm.fires for alarm in self.alarms if alarm.rule.quantity != besides)

    def observe(self, drift: dict[str, Any], step: int) -> list[Event]:
        """Apply the rules to the figures of now, and return what came of it, which waits to be taken as well.

        Args:
            drift: State of the drift test.
            step: Steps taken.
        """
        found = []
        figures = self._figures()
        for alarm in self.alarms:
            is_drift = alarm.rule.quantity == DRIFT
            value = self._drift(alarm, drift) if is_drift else figures.get(alarm.rule.quantity)
            if not is_drift and self._held(alarm.rule) < alarm.rule.min_samples:
                continue
            status = None if value is None else alarm.take(value)
            if status is not None:
                samples, text = self.window.total(), alarm.rule.text
                shown = float(self._drifts) if text == DRIFT else alarm.value
                id = f"{self.stream}-{text.replace(' ', '')}-{samples}-{step}-{alarm.times}-{status}"
                found.append(Event(id, text, alarm.rule.quantity, status, float(shown or 0), samples, step))
        self.events.extend(found)
        return found

    def _figures(self) -> dict[str, float]:
        """Return the figures of the rules for which the window holds enough."""
        names = {alarm.rule.quantity for alarm in self.alarms if self._held(alarm.rule) >= alarm.rule.min_samples}
        return self.window.values(*sorted(names - {DRIFT})) if names - {DRIFT} else {}

    def _held(self, rule: Rule) -> int:
        return self.window.arrived() if rule.quantity == MISSING else len(self.window)

    def _drift(self, alarm: Alarm, drift: dict[str, Any]) -> float:
        """Return 1 where the alarm is to be on: from a drift until the test is armed again."""
        changes = int(drift["changes"])
        is_new, self._drifts = changes != self._drifts, changes
        return float(is_new or (alarm.fires and not bool(drift["armed"])))

    def take_events(self) -> list[Event]:
        """Return the events since the last call."""
        found = list(self.events)
        self.events.clear()
        return found

    def status(self) -> dict[str, Any]:
        """Return the figures and the alarms, in plain values."""
        alarms = [
            {"rule": alarm.rule.text, "firing": alarm.fires, "value": alarm.value, "times": alarm.times}
            for alarm in self.alarms
        ]
        counts = {"predictions": len(self.window), "rollbacks": self.rollbacks, "kept_states": len(self.kept)}
        return {"window": self.window.values(), "alarms": alarms, **counts}

    # what is kept

    def add_kept(self, state: KeptState) -> None:
        """Keep a state in place of the oldest."""
        self.kept.append(state)
        while len(self.kept) > self.keep_states:
            self.kept.popleft()

    def take_kept(self) -> KeptState:
        """Return the newest state to go back to; it is gone then, unless it is the only one.

        Raises:
            ValueError: If none is kept.
        """
        if not self.kept:
            raise ValueError("rollback: no state is kept to go back to; keep_states keeps some from then on")
        self.rollbacks += 1
        return self.kept.pop() if len(self.kept) > 1 else self.kept[0]

    def grow(self, task: Task) -> bool:
        """Take a task with more classes; states of fewer outputs are no longer kept. Returns whether that is so."""
        has_grown = task.outputs != self.window.task.outputs
        if has_grown:
            self.kept.clear()
        self.window.grow(task)
        return has_grown

    # what is saved

    def state(self) -> dict[str, Any]:
        """Return everything in plain values and tensors."""
        return {
            "options": self.options(),
            "window": self.window.state(),
            "alarms": [[alarm.fires, alarm.value, alarm.times] for alarm in self.alarms],
            "counts": [self.rollbacks, self._drifts],
            "kept": [list(state) for state in self.kept],
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what :meth:`state` returned."""
        options = state["options"]
        self.window = ScoreWindow.of_state(self.window.task, state["window"], device)
        rules = self._rules(options["alarms"], self.window)
        self.alarms = [Alarm(rule, *values) for rule, values in zip(rules, state["alarms"], strict=True)]
        self.keep_states, self.rollback_on_alarm = options["keep_states"], options["rollback_on_alarm"]
        self.stream = options["stream"]
        self.rollbacks, self._drifts = state["counts"]
        self.kept = deque(KeptState(*values) for values in state["kept"])
