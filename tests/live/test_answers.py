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


def test_labels_before_their_samples_and_repetitions() -> None:
    """Each sample is learned from once, in whatever order sample and label come, and whatever comes again."""
    one = learner(classes=["n", "p"])
    answers = Answers(one, "label", "id", unique_ids=3)

    def take(**line: Any) -> dict[str, Any]:
        row = answers.answer(json.dumps(line).encode())
        return {name: row.get(name) for name in ("learned", "duplicate", "label") if name in row}

    learned, waits = {"learned": True, "label": "p"}, {"learned": False}
    repeated = {"learned": False, "duplicate": True}
    assert take(id=1, label="p") == {"learned": False, "label": "p"}
    assert take(id=1, a=1.0) == learned
    assert take(id=1, label="p") == take(id=1, a=1.0) == take(id=1, a=1.0, label="p") == repeated
    assert take(id=2, a=1.0) == waits
    assert take(id=2, a=1.0) == repeated
    assert take(id=2, label="p") == learned
    assert take(id=2, label="p") == repeated
    assert take(id=3, a=1.0, label="p") == learned
    assert take(id=3, a=1.0, label="p") == repeated
    assert take(a=1.0, label="p") == take(a=1.0, label="p") == learned
    assert (one.steps, answers.counts["duplicate"], len(one.pending)) == (5, 6, 0)
    assert take(id="bad", label="x") == {}
    twin = Answers(one, "label", "id", unique_ids=3)
    twin.load(json.loads(json.dumps(answers.state())))
    assert twin.state() == answers.state() == {
        "counts": {"learned": 5, "duplicate": 6, "bad": 1}, "ids": {"most": 3, "learned": [1, 2, 3], "early": []}
    }  # fmt: skip
    assert [take(id=i, label="p")["learned"] for i in (4, 5, 6, 7)] == [False] * 4  # of which 4 is forgotten
    assert take(id=4, a=1.0) == waits
    assert take(id=5, a=1.0) == learned
    assert take(id=1, a=1.0) == waits  # of the newest three only


def test_the_number_of_unique_ids_is_part_of_the_state(capsys: pytest.CaptureFixture[str]) -> None:
    """Left out it stays, so that nothing is learned twice and early labels are still learned."""
    one = learner(classes=["n", "p"])

    def opened(unique_ids: int | None, state: dict[str, Any] | None = None) -> Answers:
        answers = Answers(one, "label", "id", unique_ids=unique_ids)
        if state is not None:
            answers.load(state)
        return answers

    def take(answers: Answers, **line: Any) -> dict[str, Any]:
        return answers.answer(json.dumps(line).encode())

    first = opened(3)
    assert [take(first, id=i, a=1.0, label="p")["learned"] for i in (1, 2)] == [True, True]
    assert [take(first, id=i, label="n")["learned"] for i in (8, 9)] == [False, False]
    assert take(first, id=9, label="p") == {"id": 9, "duplicate": True, "learned": False}  # the first is kept
    state = json.loads(json.dumps(first.state()))
    again = opened(None, state)
    assert again.state() == state
    assert capsys.readouterr().err == ""
    assert take(again, id=1, a=1.0, label="p")["duplicate"]
    assert take(again, id=9, a=1.0)["label"] == "n"
    assert not any(take(again, id=i, label="p")["learned"] for i in (10, 11, 12))  # the third drops the label of 8
    assert again.counts["early labels dropped"] == 1
    smaller = opened(1, again.state())
    assert "--unique_ids 1: the oldest 2 ids and 2 early labels of the state are dropped" in capsys.readouterr().err
    assert smaller.state()["ids"] == {"most": 1, "learned": [9], "early": [[12, "p"]]}
    assert smaller.counts["early labels dropped"] == 3
    ended = opened(0, smaller.state())
    assert "ids" not in ended.state()
    assert take(opened(None, ended.state()), id=9, a=1.0, label="p")["learned"]  # ids may come again
    assert "duplicate" not in take(opened(None), id=9, a=1.0, label="p")
