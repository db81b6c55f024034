"""One odd line never stops ``filtune learn``: it has an answer, and nothing is learned from it or left waiting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filtune.live.answers import Answers
from filtune.live.sources.line_output import FileOutput
from filtune.optimizers import LoKO

from filtune import OnlineLearner

ODD = [
    '{"id": [1], "label": "pos"}',
    '{"id": {"a": 1}, "text": "good"}',
    '{"id": true, "label": "neg"}',
    '{"id": 1.0, "label": "neg"}',
    '{"id": "\\ud800", "label": "neg"}',
    '{"id": "\\udfff", "text": "good"}',
    '{"id": "\\ud800", "text": "good", "label": "neg"}',
    '{"id": 1, "label": "poz"}',
    '{"id": 1, "label": ["neg"]}',
    '{"id": 1, "label": {"neg": 1}}',
    '{"text": "\\ud800", "label": "neg"}',
    '{"text": "a \\udc00 b", "id": 9}',
    '{"text": ["a", "\\ud800"], "label": "neg"}',
    '{"text": "good", "label": "\\ud800"}',
    '{"text": "good", "label": [1, 2]}',
    '{"text": "good", "label": Infinity}',
    '{"text": 5, "label": "neg"}',
    '{"text": {"a": 1}, "label": "neg"}',
    '{"text": [[]], "label": "neg"}',
    '{"text": "good", "label": ' + "[" * 500 + "]" * 500 + "}",
    '{"text": "good", "label": ' + "9" * 5000 + "}",
    '{"id": ' + "9" * 4000 + ', "text": "good"}',
    '"\\ud800"',
    "\xff",
]


@pytest.fixture(scope="module")
def learners(tiny_bert: Path) -> dict[str, OnlineLearner]:
    backbone = {"name": str(tiny_bert), "adapter": "head"}
    return {
        "closed": OnlineLearner("classification", backbone, LoKO, ["pos", "neg"]),
        "open": OnlineLearner("classification", backbone, LoKO, "open"),
        "regression": OnlineLearner("regression", backbone, LoKO),
        "multilabel": OnlineLearner("multilabel", backbone, LoKO, ["pos", "neg"]),
    }


def answers_of(one: OnlineLearner, lines: list[str], folder: Path) -> list[dict[str, Any]]:
    """The answers to lines, as they are read back from the output."""
    answers, output = Answers(one, "label", "id"), FileOutput(str(folder / "out"), None)
    for line in lines:
        output.write(answers.answer(line.encode("latin-1")))
    output.close()
    return [json.loads(line) for line in (folder / "out").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["closed", "open", "regression", "multilabel"])
def test_an_odd_line_is_answered(learners: dict[str, OnlineLearner], tmp_path: Path, kind: str) -> None:
    one = learners[kind]
    lines = [line for line in ODD if kind != "multilabel" or '["neg"]' not in line]
    if kind == "open":
        lines = [line for line in lines if "poz" not in line]
    found = answers_of(one, ['{"text": "good", "id": 1}', *lines], tmp_path)
    assert [row for row in found[1:] if "error" not in row] == []
    assert all("\n" not in row["error"] and len(row["error"]) < 400 for row in found[1:])
    assert (one.steps, len(one.pending), one.pending.dropped, one.classes) == (
        0, 1, 0, ["pos", "neg"] if kind in ("closed", "multilabel") else [],
    )  # fmt: skip
    one.save(tmp_path / "a.ckpt")
    OnlineLearner.load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("label", ["[1, 2]", "[1]", '"x"', "1e39", "Infinity", "{}", "1" + "0" * 400])
def test_a_label_that_is_no_number(learners: dict[str, OnlineLearner], tmp_path: Path, label: str) -> None:
    (found,) = answers_of(learners["regression"], [f'{{"text": "good", "label": {label}}}'], tmp_path)
    assert found["error"].startswith("y: ")


def test_a_failure_of_the_step_itself_is_no_bad_line(
    learners: dict[str, OnlineLearner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameters may be half changed by then."""

    def fails(*args: Any) -> None:
        raise RuntimeError("out of memory")

    one = learners["closed"]
    monkeypatch.setattr(one.optimizer, "step", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        Answers(one, "label", "id").answer(b'{"text": "good", "label": "pos"}')


def test_a_sample_is_learned_from_once(learners: dict[str, OnlineLearner], tmp_path: Path) -> None:
    lines = [
        '{"text": "hello", "id": 1}',
        '{"id": 1, "label": "neg", "text": "hello"}',
        '{"id": 1, "label": "neg"}',
        '{"text": "great", "id": 2}',
        '{"id": 2, "label": "poz"}',
        '{"id": 2, "label": "pos"}',
    ]
    one = learners["closed"]
    steps = one.steps
    found = answers_of(one, lines, tmp_path)
    assert [row.get("learned") for row in found] == [False, True, False, False, None, True]
    assert list(found[1]) == ["id", "prediction", "probability", "entropy", "label", "learned"]
    assert one.steps == steps + 2
