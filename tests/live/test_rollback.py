"""Rollback: model and optimizer go back, everything else goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from filtune.live import core
from filtune.live.core import LearnerCore
from filtune.optimizers import LoKO

from filtune import AdamW, OnlineLearner
from tests.live.serving_runs import differences
from tests.live.watched_tables import new_table_learner, stream


@pytest.fixture(autouse=True)
def _every_ten_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "KEEP_INTERVAL", 10)


def params(learner: LearnerCore) -> list[torch.Tensor]:
    return [param.detach().clone() for param in learner.optimizer.trained()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, first, second))


@pytest.mark.parametrize("optimizer", [LoKO, partial(AdamW, lr=0.02)], ids=["LoKO", "AdamW"])
def test_parameters_and_optimizer_go_back_and_the_rest_goes_on(optimizer: object) -> None:
    """After a rollback the learner is one that has never seen the samples between, but for its number of steps."""
    samples = stream(25)
    schedule = {} if optimizer is LoKO else {"warmup": 40}
    learner, other = (new_table_learner(optimizer=optimizer, schedule=schedule) for _ in range(2))
    learner.watch_for(keep_states=2)
    for x, y in samples[:20]:
        learner.learn_one(x, y)
        other.learn_one(x, y)
    learner.predict_one(samples[0][0], id="waits")
    kept = params(learner)
    for x, y in samples[20:25]:
        learner.learn_one(x, y)
    assert not equal(params(learner), kept)
    assert learner.rollback() == 20
    assert equal(params(learner), kept)
    assert (learner.steps, learner.metrics["samples"], len(learner.pending)) == (25, 25, 1)
    assert learner.predict_proba_one(samples[0][0]) == other.predict_proba_one(samples[0][0])
    rates = [group.get("lr") for group in learner.optimizer.param_groups]
    other.steps = 25
    if other.scheduler is not None:
        for _ in range(5):
            other.scheduler.step()
    assert rates == [group.get("lr") for group in other.optimizer.param_groups]
    for x, y in samples[:5]:
        learner.learn_one(x, y)
        other.learn_one(x, y)
    assert equal(params(learner), params(other))


def test_a_second_rollback_goes_further_back_and_the_last_state_stays() -> None:
    learner = new_table_learner()
    learner.watch_for(keep_states=2)
    for x, y in stream(25):
        learner.learn_one(x, y)
    assert [learner.rollback() for _ in range(3)] == [20, 10, 10]
    assert learner.watched["rollbacks"] == 3


def test_without_a_state_there_is_no_rollback() -> None:
    with pytest.raises(ValueError, match="rollback: no state is kept to go back to; keep_states keeps some"):
        new_table_learner().rollback()


def test_no_state_is_kept_while_an_alarm_is_on() -> None:
    learner = new_table_learner()
    learner.watch_for(["accuracy < 1 until 1 after 5"], window=10, keep_states=3)
    for x, y in stream(31):
        learner.learn_one(x, y)
    assert [state.step for state in learner.monitor.kept] == [0]


def test_an_alarm_goes_back_to_the_last_state_without_one() -> None:
    learner = new_table_learner()
    learner.watch_for(["accuracy < 0.5 until 0.8 after 10"], window=10, rollback_on_alarm=True)
    samples = stream(50, 30)
    for x, y in samples[:50]:
        learner.learn_one(x, y)
    learner.monitor.take_events()
    kept, before = learner.monitor.kept[-1], learner.monitor.rollbacks
    assert kept.step == 50
    for x, y in samples[50:]:
        learner.learn_one(x, y)
        if learner.monitor.rollbacks > before:
            break
    (event,) = learner.monitor.take_events()
    assert (event.status, event.rolled_back_to) == ("firing", kept.step)
    assert equal(params(learner), kept.params)
    assert learner.watched["alarms"][0]["firing"]  # the window goes on, and has the bad predictions


def test_a_new_class_keeps_a_state_that_has_it() -> None:
    learner = new_table_learner(classes="open")
    learner.watch_for(keep_states=2)
    for i in range(25):
        learner.learn_one({"u": float(i % 2)}, "ab"[i % 2])
    learner.learn_one({"u": 7.0}, "c")
    learner.learn_one({"u": 7.0}, "c")
    assert learner.rollback() == 24  # steps begin with the second class
    assert learner.classes == ["a", "b", "c"]
    learner.learn_one({"u": 7.0}, "c")


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_kept_states_are_saved(kind: str, tmp_path: Path) -> None:
    learner = new_table_learner(kind)
    learner.watch_for(keep_states=2)
    samples = [(x, y if kind == "classification" else 10 * x["u"]) for x, y in stream(30)]
    for x, y in samples[:25]:
        learner.learn_one(x, y)
    learner.save(tmp_path / "s.ckpt")
    again = OnlineLearner.load(tmp_path / "s.ckpt")
    assert [each.rollback() for each in (learner, again)] == [20, 20]
    for x, y in samples[25:]:
        learner.learn_one(x, y)
        again.learn_one(x, y)
    assert differences(learner, again) == []


def test_alarms_of_one_fault_roll_back_once() -> None:
    """Drift, loss and accuracy show it one after the other; a figure of labels prevents no rollback."""
    learner = new_table_learner()
    rules = ["drift", "log_loss > 0.8 until 0.5 after 20", "accuracy < 0.5 until 0.9 after 20", "missing > 0.2 after 9"]
    learner.watch_for(rules, window=20, keep_states=3, rollback_on_alarm=True)
    samples = stream(100, 40)
    for number, (x, y) in enumerate(samples):
        if number == 100:
            learner.monitor.take_events()
            before = learner.monitor.rollbacks
            for _ in range(6):
                learner.learn_one(x)  # without a label
        learner.learn_one(x, y)
    events = [event for event in learner.monitor.take_events() if event.status == "firing"]
    assert events[0].quantity == "missing"
    first, *later = events[1:]
    assert {event.quantity for event in events[1:]} == {"drift", "log_loss", "accuracy"}
    assert first.rolled_back_to == 100
    assert [event.rolled_back_to for event in later if event.step > first.step] == [None] * len(later)
    assert learner.monitor.rollbacks == before + 1


def test_alarms_that_come_on_together_roll_back_once() -> None:
    learner = new_table_learner()
    learner.watch_for(["accuracy < 1 after 10", "log_loss > 0.01 after 10"], window=10, rollback_on_alarm=True)
    for x, y in stream(10):
        learner.learn_one(x, y)
    assert [event.rolled_back_to for event in learner.monitor.take_events()] == [0, 0]
    assert learner.monitor.rollbacks == 1
