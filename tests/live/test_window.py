"""Figures over a window: of the last predictions alone, by the definitions of the whole run's."""

from __future__ import annotations

import math

import pytest
import torch
from filtune.datamodules import Task
from filtune.lightning_modules.scores import ProbabilityScores
from filtune.live.watching.window import LABEL, SAMPLE, ScoreWindow
from filtune.optimizers.likelihoods import likelihood_of
from filtune.optimizers.likelihoods.base import Observation
from filtune.optimizers.likelihoods.gaussian import Gaussian, Scaling
from sklearn.metrics import f1_score, log_loss
from torch import Tensor

from tests.live.watched_tables import new_table_learner


def task(kind: str, outputs: int, scaled: bool = False) -> Task:
    classes = tuple("abcdefgh"[:outputs]) if likelihood_of(kind).has_classes else ()
    return Task("live", kind, outputs, classes, "table", None, (), {}, scaled)


def observed(kind: str, outputs: Tensor, target: Tensor) -> Observation:
    return likelihood_of(kind).of(outputs).observe(target)


def filled(kind: str, outputs: Tensor, target: Tensor, size: int) -> ScoreWindow:
    window = ScoreWindow(task(kind, outputs.shape[1]), size)
    for i in range(len(outputs)):
        window.update(observed(kind, outputs[i : i + 1], target[i : i + 1]))
    return window


def test_figures_of_classes_are_those_of_the_last_predictions() -> None:
    torch.manual_seed(0)
    z, y = 2 * torch.randn(73, 3), torch.randint(3, (73,))
    window, last = filled("classification", z, y, 40), slice(33, None)
    p = z[last].double().softmax(1)
    scores = ProbabilityScores()
    scores.update(z[last].softmax(1), y[last])
    found = window.values()
    assert found["accuracy"] == pytest.approx(float((p.argmax(1) == y[last]).double().mean()), abs=1e-6)
    assert found["log_loss"] == pytest.approx(log_loss(y[last], p), rel=1e-6)
    assert found["f1"] == pytest.approx(f1_score(y[last], p.argmax(1), average="macro"), rel=1e-6)
    assert found["calibration_error"] == pytest.approx(float(scores.compute("")["ece"]) / 100, rel=1e-6)
    assert (len(window), window.count) == (40, 73)
    assert set(found) | {"missing"} == set(window.names())


def test_a_share_has_no_rounding_of_float32() -> None:
    """Seven right ones of ten are 0.7, which is not below 0.7."""
    z = torch.tensor([[4.0, 0.0]] * 10)
    assert filled("classification", z, torch.tensor([0] * 7 + [1] * 3), 10).values("accuracy") == {"accuracy": 0.7}


def test_predictions_that_are_not_finite_have_a_place_and_enter_nothing() -> None:
    z = torch.tensor([[1.0, 0.0], [math.nan, 0.0], [0.0, 1.0]])
    window = filled("classification", z, torch.tensor([0, 0, 0]), 10)
    assert len(window) == 3
    assert window.values("accuracy") == {"accuracy": 0.5}
    assert window.last() is not None
    assert window.last(2) is None
    assert filled("classification", z[1:2], torch.tensor([0]), 10).values() == {}


def test_another_size_keeps_the_newest() -> None:
    torch.manual_seed(1)
    z, y = torch.randn(30, 2), torch.randint(2, (30,))
    window = filled("classification", z, y, 12)
    assert window.resized(5).values() == filled("classification", z[-5:], y[-5:], 5).values()
    assert (window.resized(5).total(), window.resized(5).resized(9).total()) == (30, 30)
    state = window.resized(5).state()
    assert ScoreWindow.of_state(window.task, state, torch.device("cpu")).total() == 30
    larger = window.resized(20)
    for i in range(4):
        larger.update(observed("classification", z[i : i + 1], y[i : i + 1]))
    assert (
        larger.values()
        == filled("classification", torch.cat([z[-12:], z[:4]]), torch.cat([y[-12:], y[:4]]), 20).values()
    )


def test_a_batch_is_as_many_predictions() -> None:
    torch.manual_seed(2)
    z, y = torch.randn(6, 2), torch.randint(2, (6,))
    whole = ScoreWindow(task("classification", 2), 4)
    whole.update(observed("classification", z, y))
    single = filled("classification", z, y, 4)
    assert whole.values() == single.values()
    assert whole.last(3) == pytest.approx(tuple(torch.stack([torch.tensor(single.last(k)) for k in (3,)])[0].tolist()))


@pytest.mark.parametrize(("kind", "outputs"), [("regression", 1), ("count", 1), ("multilabel", 3)])
def test_every_kind_of_task_has_its_figures(kind: str, outputs: int) -> None:
    torch.manual_seed(3)
    z = torch.randn(20, outputs)
    y = {"regression": z.squeeze(1) + 1, "count": z.exp().round().squeeze(1), "multilabel": (z > 0.5).float()}[kind]
    found = filled(kind, z, y, 10).values()
    assert all(math.isfinite(value) for value in found.values())
    if kind == "regression":
        assert found["rmse"] == pytest.approx(1, rel=1e-5)
        assert found["pearson"] == pytest.approx(1, rel=1e-5)
        assert found["log_loss"] == pytest.approx(0.5, rel=1e-5)
    if kind == "multilabel":
        right = ((z[10:] > 0) == (y[10:] > 0)).double()
        assert found["accuracy"] == pytest.approx(float(right.mean()), abs=1e-6)
        assert found["exact_match"] == pytest.approx(float(right.prod(1).mean()), abs=1e-6)


def test_the_interval_of_numbers_in_running_units_is_counted() -> None:
    """90 % of normal targets are in it, up to four binomial standard deviations: 4 sqrt(0.09 / 400) = 0.06."""
    torch.manual_seed(4)
    location, scale, variance, residual = torch.tensor([[50.0], [20.0], [0.25], [0.09]], dtype=torch.float64)
    z = torch.randn(400, 1)
    y = 50 + 20 * (z + 0.3 * torch.randn(400, 1)).squeeze(1)
    window = ScoreWindow(task("regression", 1, scaled=True), 400)
    window.update(Gaussian(z, Scaling(location, scale, variance, residual)).observe(y))
    assert window.values()["coverage"] == pytest.approx(0.9, abs=0.06)
    for other in (task("count", 1, scaled=True), task("regression", 1), task("classification", 2)):
        assert "coverage" not in ScoreWindow(other).names()


def test_labels_that_come_late_are_not_missing() -> None:
    window = ScoreWindow(task("classification", 2), 100)
    for what in [SAMPLE] * 10 + [SAMPLE, LABEL] * 45:  # each label comes ten samples late
        window.came(what)
    assert window.values("missing")["missing"] == pytest.approx(1 - 45 / 55, rel=1e-6)
    for what in [SAMPLE, LABEL] * 50:
        window.came(what)
    assert window.values("missing") == {"missing": 0.0}
    for _ in range(50):
        window.came(SAMPLE)
    assert window.values("missing")["missing"] == pytest.approx(1 - 25 / 75, rel=1e-6)


def test_what_comes_to_a_learner_is_noted() -> None:
    learner = new_table_learner()
    learner.learn_one({"u": 1.0}, "a")
    learner.learn_one({"u": 1.0})
    learner.learn_one({"u": 1.0}, id=1)
    learner.predict_one({"u": 2.0}, id=2)
    learner.predict_one({"u": 2.0})  # is not kept, so that no label of it can come
    learner.learn_many([{"u": 1.0}, {"u": 2.0}], ["b", None])
    assert learner.watched["window"]["missing"] == pytest.approx(4 / 6, rel=1e-6)
    assert learner.feedback(1, "a")
    assert not learner.feedback(1, "a")
    assert learner.watched["window"]["missing"] == pytest.approx(3 / 6, rel=1e-6)


def test_a_new_class_had_no_probability() -> None:
    learner = new_table_learner(classes="open")
    for i in range(12):
        learner.learn_one({"u": float(i % 2)}, "ab"[i % 2])
    before = learner.watched["window"]
    learner.learn_one({"u": 5.0}, "c")
    assert learner.monitor.window.task.outputs == 3
    after = learner.watched["window"]
    assert after["accuracy"] == pytest.approx(before["accuracy"] * 11 / 12, rel=1e-6) or after["accuracy"] > 0
    assert len(learner.monitor.window) == 12  # of the first sample no class was known
