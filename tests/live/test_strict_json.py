"""Everything that is written is strict JSON: what is not finite is null."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filtune.live.answers import Answers
from filtune.live.plain import json_text
from filtune.live.watching.outbox import Outbox

from tests.live.watched_tables import new_table_learner

NAN, INF = float("nan"), float("inf")


def test_what_is_not_finite_is_null() -> None:
    found = json_text({"a": NAN, "b": [INF, (1.5, -INF)], "c": {"d": {"e": NAN}}, "f": "NaN", "g": True, "h": 3})
    assert json.loads(found, parse_constant=pytest.fail) == {
        "a": None, "b": [None, [1.5, None]], "c": {"d": {"e": None}}, "f": "NaN", "g": True, "h": 3
    }  # fmt: skip


def test_events_that_wait_are_strict_json(tmp_path: Path) -> None:
    Outbox(tmp_path / "out").add({"id": "a", "value": NAN})
    assert json.loads((tmp_path / "out").read_text()) == {"event": {"id": "a", "value": None}}


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_an_answer_without_a_finite_prediction_has_no_entropy(kind: str) -> None:
    learner = new_table_learner(kind, on_divergence="warn")
    for param in learner.optimizer.trained():
        param.data.fill_(NAN)
    learner.publish()
    row = json.loads(json_text(Answers(learner, "label", "id").answer({"u": 1.0, "id": 1})), parse_constant=pytest.fail)
    assert row.get("error") is None
    assert {row.get(name) for name in ("prediction", "probability", "entropy")} == {None}
