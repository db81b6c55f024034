"""Rules of alarms: they fire once, clear where it is good again, and survive kills."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from filtune.live import core
from filtune.live.watching.rules import Alarm, Rule, parse, read_rules

from filtune import OnlineLearner
from tests.live.serving_runs import differences
from tests.live.watched_tables import new_table_learner, stream

KNOWN = {"accuracy": True, "log_loss": False}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("accuracy < 0.7", Rule("accuracy < 0.7", "accuracy", True, 0.7, 0.7, 100)),
        (" accuracy<70%  until 75% ", Rule("accuracy < 0.7 until 0.75", "accuracy", True, 0.7, 0.75, 100)),
        ("log_loss > 1e1 until 9 after 5", Rule("log_loss > 10 until 9 after 5", "log_loss", False, 10, 9, 5)),
        (
            "log_loss > 1234567 until 1234566.25",
            Rule("log_loss > 1234567 until 1234566.25", "log_loss", False, 1234567, 1234566.25, 100),
        ),
        ("accuracy < 6.93e1% until 7e-1", Rule("accuracy < 0.693 until 0.7", "accuracy", True, 0.693, 0.7, 100)),
        ("drift", Rule("drift", "drift")),
    ],
)
def test_a_rule_is_read(text: str, rule: Rule) -> None:
    assert parse(text, KNOWN, True, 1000) == rule
    assert parse(rule.text, KNOWN, True, 1000) == rule


def test_a_small_window_needs_no_more_than_it_holds() -> None:
    assert parse("accuracy < 0.7", KNOWN, True, 20).min_samples == 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("accurac < 0.7", "there is no quantity 'accurac'; choose from accuracy, log_loss, drift"),
        ("accuracy < x", "'x' is no number"),
        ("accuracy < nan", "'nan' is no number"),
        ("log_loss > 50%", "'50%' is no number"),
        ("accuracy < 70", "accuracy is a share, and shares are between 0 and 1; write 70% or 0.7"),
        ("accuracy > 2", "'accuracy > 2': accuracy is a share, and shares are between 0 and 1"),
        ("accuracy > 300%", "accuracy is a share, and shares are between 0 and 1"),
        ("accuracy > x%", "'x%' is no number"),
        ("accuracy > inf%", "'inf%' is no number"),
        ("accuracy > 1e999999999%", "'1e999999999%' is no number"),
        ("accuracy = 0.7", "cannot be read; write it as 'accuracy < 0.7'"),
        ("", "cannot be read"),
        (0.7, "a text is needed"),
        ("accuracy < 0.7 until 0.6", "the alarm clears where it is good again; take larger for until than 0.7"),
        ("log_loss > 1 until 2", "take smaller for until than 1"),
        ("accuracy < 0.7 after 0", "must be a number of predictions, at least 1"),
        ("accuracy < 0.7 after 2000", "the window holds 1000 predictions, never 2000"),
    ],
)
def test_a_wrong_rule_is_refused_in_one_line(text: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        parse(text, KNOWN, True, 1000)
    assert "\n" not in str(refused.value)


def test_a_rule_of_drift_is_for_classes() -> None:
    with pytest.raises(ValueError, match="the drift test is for classes only; choose from accuracy, log_loss$"):
        parse("drift", KNOWN, False, 1000)


def test_rules_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "alarms.yaml"
    file.write_text("alarms:\n  - accuracy < 0.7 until 0.75\n  - drift\n")
    assert read_rules(["log_loss > 1", str(file)]) == ["log_loss > 1", "accuracy < 0.7 until 0.75", "drift"]
    for content, words in [("[drift]", "must have a list of rules under 'alarms'"), ("alarms: [", "is not YAML")]:
        file.write_text(content)
        with pytest.raises(ValueError, match=words):
            read_rules([str(file)])
    with pytest.raises(ValueError, match="there is no such file"):
        read_rules([str(tmp_path / "no.yaml")])


def test_an_alarm_fires_once_and_clears_where_it_is_good_again() -> None:
    alarm = Alarm(parse("accuracy < 0.7 until 0.8", KNOWN, True, 10))
    values = [0.9, 0.7, 0.69, 0.6, 0.75, 0.79, math.nan, 0.8, 0.75, 0.5]
    changes = [alarm.take(value) for value in values]
    assert changes == [None, None, "firing", None, None, None, None, "cleared", None, "firing"]
    assert alarm.times == 2


def test_without_until_it_clears_at_the_threshold() -> None:
    alarm = Alarm(parse("log_loss > 1", KNOWN, True, 10))
    assert [alarm.take(value) for value in (1.0, 1.1, 1.0)] == [None, "firing", "cleared"]


def test_alarms_of_a_stream_that_changes() -> None:
    """Labels are exchanged after 100 samples: accuracy, loss and drift show it, each once, and recover."""
    learner = new_table_learner()
    rules = ["accuracy < 0.6 until 0.8 after 20", "log_loss > 0.8 until 0.5 after 20", "drift"]
    learner.watch_for(rules, window=20)
    for x, y in stream(100, 65):
        learner.learn_one(x, y)
    events = [event for event in learner.monitor.take_events() if event.step > 90]
    assert learner.monitor.take_events() == []
    assert len({event.id for event in events}) == len(events)
    by_rule = {rule: [(event.status, event.step) for event in events if event.rule == rule] for rule in rules}
    assert all([status for status, _ in by_rule[rule]] == ["firing", "cleared"] for rule in rules[:2])
    assert all(100 < changes[0][1] <= 120 for changes in by_rule.values())
    assert by_rule["drift"] == [("firing", learner.drift["last_step"])]


def test_an_alarm_of_drift_is_on_until_the_test_is_armed_again() -> None:
    monitor = new_table_learner().monitor
    monitor.configure(monitor.plan(["drift"]), {"changes": 2, "armed": True})
    states = [(2, True), (3, False), (3, False), (3, True), (3, True), (4, True), (5, False), (5, True)]
    found = [[e.status for e in monitor.observe({"changes": n, "armed": armed}, 0)] for n, armed in states]
    assert found == [[], ["firing"], [], ["cleared"], [], ["firing"], [], ["cleared"]]


def test_a_drift_of_before_raises_no_alarm() -> None:
    learner = new_table_learner()
    learner.drift_state["changes"] += 3
    learner.watch_for(["drift"])
    learner.learn_one(*stream(1)[0])
    assert learner.monitor.take_events() == []


def test_too_few_predictions_raise_no_alarm() -> None:
    learner = new_table_learner()
    learner.watch_for(["accuracy < 1 after 30"], window=40)
    for x, y in stream(29):
        learner.learn_one(x, y)
    assert learner.watched["alarms"][0] == {"rule": "accuracy < 1 after 30", "firing": False, "value": None, "times": 0}
    learner.learn_one(*stream(30)[29])
    assert learner.watched["alarms"][0]["firing"]


def test_labels_that_stop_raise_an_alarm_and_no_rollback() -> None:
    learner = new_table_learner()
    learner.watch_for(["missing > 0.5 after 10"], window=20, rollback_on_alarm=True)
    for i, (x, y) in enumerate(stream(40)):
        learner.learn_one(x, y if i < 20 else None)
    (event,) = learner.monitor.take_events()
    assert (event.status, event.step, event.rolled_back_to) == ("firing", 20, None)


def test_alarms_go_on_from_a_saved_learner_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "KEEP_INTERVAL", 30)
    options: dict[str, Any] = {"window": 20, "keep_states": 2, "rollback_on_alarm": True}
    learner, samples = new_table_learner(), stream(70, 50)
    learner.watch_for(["accuracy < 0.6 until 0.8 after 20", "drift", "missing > 0.9"], **options)
    for x, y in samples[:75]:
        learner.learn_one(x, y)
    learner.monitor.take_events()
    learner.save(tmp_path / "s.ckpt")
    again = OnlineLearner.load(tmp_path / "s.ckpt")
    assert again.watched == learner.watched
    again.watch_for(["accuracy < 0.6 until 0.8 after 20", "drift", "missing > 0.9"], **options)  # the same command
    for x, y in samples[75:]:
        learner.learn_one(x, y)
        again.learn_one(x, y)
    assert differences(learner, again) == []
    events = learner.monitor.take_events()
    assert [event.rolled_back_to for event in events if event.rolled_back_to is not None]
    assert again.monitor.take_events() == events


def test_other_rules_leave_those_that_stay_as_they_were() -> None:
    learner = new_table_learner()
    learner.watch_for(["accuracy < 1 after 10", "log_loss > 5"])
    for x, y in stream(20):
        learner.learn_one(x, y)
    learner.watch_for(["drift", "accuracy < 1 after 10"])
    assert [alarm["firing"] for alarm in learner.watched["alarms"]] == [False, True]
    learner.watch_for([])
    assert learner.watched["alarms"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alarms": ["pearson < 0.5"]}, "there is no quantity 'pearson'"),
        ({"window": 0}, "window: must be at least one"),
        ({"keep_states": -1}, "keep_states: must be a number of states"),
        ({"rollback_on_alarm": True}, "there is no alarm"),
        ({"alarms": ["drift"], "keep_states": 0, "rollback_on_alarm": True}, "there must be a state to go back to"),
    ],
)
def test_wrong_options_change_nothing(options: dict[str, Any], words: str) -> None:
    learner = new_table_learner()
    before = learner.monitor.options()
    with pytest.raises(ValueError, match=words):
        learner.watch_for(**options)
    assert learner.monitor.options() == before


def test_another_window_goes_on_counting_samples() -> None:
    learner, samples = new_table_learner(), stream(60)
    learner.watch_for(["accuracy < 1 until 1 after 1"], window=20)
    for size, part in [(20, samples[:30]), (5, samples[30:40]), (50, samples[40:])]:
        learner.watch_for(window=size)
        for x, y in part:
            learner.learn_one(x, y)
    events = learner.monitor.take_events()
    assert [event.samples for event in events] == [event.step for event in events]
    assert learner.monitor.window.total() == 60
