"""What ``filtune learn`` answers beside the prediction."""

from __future__ import annotations

import json
from typing import Any

import pytest
from filtune.live.answers import Answers
from filtune.optimizers import AdamW, LoKO

from filtune import OnlineLearner

MLP = {"name": "mlp", "pretrained": False}


def learner(kind: str = "classification", classes: Any = (), optimizer: Any = LoKO) -> OnlineLearner:
    return OnlineLearner(kind, MLP, optimizer, classes, columns=["a"])


def answered(one: OnlineLearner, lines: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    answers = Answers(one, "label", "id", **options)
    return [answers.answer(json.dumps(line).encode()) for line in lines]


@pytest.mark.parametrize("classes", [["n", "p"], ["n", "p", "q"], "open"])
def test_uncertainty_is_that_of_the_learner(classes: Any) -> None:
    lines = [{"a": 1.0, "label": "p"}, {"a": 0.5, "label": "n"}, {"a": -1.0, "label": "p"}]
    one, twin, plain = (learner(classes=classes) for _ in range(3))
    found = answered(one, lines, uncertainty=True)
    expected = []
    for line in lines:
        expected.append(twin.uncertainty({"a": line["a"]}))
        answered(twin, [line])
    answered(plain, lines)
    for row, each in zip(found, expected, strict=True):
        best = row["prediction"]
        if len(each["probability"]) > 1:
            assert row["predictive_probability"] == each["probability"][best]
            deviation = each["logit_std"]  # of two classes that of the difference of their logits
            assert row["logit_std"] == (deviation[best] if isinstance(deviation, dict) else deviation) > 0
    assert repr(one.optimizer.state_dict()) == repr(plain.optimizer.state_dict())  # nothing is changed by it


def test_uncertainty_of_numbers_and_of_lists() -> None:
    (row,) = answered(learner("regression"), [{"a": 1.0, "label": 2.0}], uncertainty=True)
    assert row["std"] > 0
    (row,) = answered(learner("multilabel", ["n", "p"]), [{"a": 1.0, "label": ["n"]}], uncertainty=True)
    assert set(row["predictive_probability"]) == {"n", "p"}


def test_uncertainty_needs_a_filter() -> None:
    with pytest.raises(ValueError, match="--uncertainty: AdamW has no covariance of the parameters; leave it out"):
        Answers(learner(classes=["n", "p"], optimizer=AdamW), "label", "id", uncertainty=True)
