"""Classes that come while a learner runs."""

from __future__ import annotations

import math
import statistics
from functools import partial
from typing import Any

import pytest
from filtune.live.prequential import UNKNOWN
from filtune.optimizers import AdamW, Filtune, LoKO

from filtune import OnlineLearner
from tests.live.learners import IMAGES, SMALL, learner


def test_classes_that_come_while_it_runs() -> None:
    one = learner(Filtune, "open")
    assert one.predict_one(IMAGES[0]) is None
    assert one.predict_proba_one(IMAGES[0]) == {}
    one.learn_one(IMAGES[0], "a")
    assert (one.predict_one(IMAGES[0]), one.predict_proba_one(IMAGES[0])) == ("a", {"a": 1.0})
    for x, y in zip(IMAGES[1:9], "abcabdca", strict=True):
        one.learn_one(x, y)
    assert one.classes == ["a", "b", "c", "d"]
    assert one.task.outputs == 4
    assert set(one.predict_proba_one(IMAGES[0])) == set("abcd")
    assert one.metrics["samples"] == 9
    one.learn_many(IMAGES[10:13], ["e", "f", "e"])
    assert one.classes == list("abcdef")
    assert "online_top5" in one.metrics
    assert set(one.uncertainty(IMAGES[0])["probability"]) == set("abcdef")


def test_a_grown_model_is_the_model_that_knew_the_classes_but_saw_them_later() -> None:
    """What was counted so far stays, and so do the predictions among the classes known."""
    one = learner(LoKO, "ab", new_classes="add")
    for x, y in zip(IMAGES[:10], "ababbabaab", strict=True):
        one.learn_one(x, y)
    before, figures = one.predict_proba_one(IMAGES[20]), one.metrics
    one.add_classes(["c"])
    after = one.predict_proba_one(IMAGES[20])
    odds = {name: value / (1 - after["c"]) for name, value in after.items() if name != "c"}
    assert odds == pytest.approx(before, rel=1e-5)
    assert one.metrics == figures


@pytest.mark.parametrize("rule", [LoKO, Filtune, partial(AdamW, lr=0.01)])
@pytest.mark.parametrize("size", [1, 3])
def test_every_answer_is_scored_as_it_was_given_out(rule: Any, size: int) -> None:
    """A class that the prediction did not know counts as wrong, with a probability of zero."""
    one, right, brier, nll = learner(rule, "open"), [], [], []
    labels = "aaabacbdadcafbegbcadba"[: 21 // size * size]
    for start in range(0, len(labels), size):
        xs, ys = IMAGES[start : start + size], labels[start : start + size]
        answers, probabilities = one.predict_many(xs), one.predict_proba_many(xs)
        for answer, p, y in zip(answers, probabilities, ys, strict=True):
            if answer is not None:
                right.append(answer == y)
                brier.append(sum((value - (name == y)) ** 2 for name, value in p.items()) + (y not in p))
                nll.append(-math.log(p.get(y, UNKNOWN)))
        one.learn_many(xs, list(ys))
    found = one.metrics
    assert found["samples"] == len(labels) > len(right) == int(one.model.online.scores.samples())
    assert found["online_accuracy"] == pytest.approx(100 * statistics.fmean(right), rel=1e-6)
    # what is left for the classes not known is eps each: of the probabilities 1e-6, of a logarithm as much
    assert found["online_brier"] == pytest.approx(statistics.fmean(brier), abs=1e-5)
    assert found["online_nll"] == pytest.approx(statistics.fmean(nll), abs=1e-5)
    assert found["online_loss"] == pytest.approx(statistics.fmean(nll), rel=1e-4)
    assert found.get("online_top5", 0) < 100


def test_a_class_that_was_known_is_scored_as_before() -> None:
    """Also where its first label comes late: nothing but a class that is added is scored apart."""
    first, second = learner(LoKO, "abc"), learner(LoKO, "abc", new_classes="add")
    for x, y in zip(IMAGES[:9], "abababcab", strict=True):
        first.learn_one(x, y)
        second.learn_one(x, y)
    assert first.metrics == second.metrics


def test_a_stream_of_numbers_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from filtune.live import labels

    monkeypatch.setattr(labels, "MOST_CLASSES", 3)
    one = learner(LoKO, "ab", new_classes="add")
    one.learn_one(IMAGES[0], 1.5)
    with pytest.raises(ValueError, match="y: '2.5' would be class 4; the labels look like numbers"):
        one.learn_one(IMAGES[0], 2.5)


def test_what_cannot_take_new_classes_says_so_at_the_start() -> None:
    with pytest.raises(ValueError, match="NGD: cannot take new classes while it runs; take a filter"):
        learner("ngd", "open")
    with pytest.raises(ValueError, match="a regression task has no classes that could be added"):
        OnlineLearner("regression", SMALL, LoKO, image_shape=(1, 8, 8), new_classes="add")
