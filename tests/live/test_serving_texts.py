"""Texts of requests that are no characters are refused, and none of a sample or a class breaks a page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from filtune.live.serving.monitor import ServiceMonitor
from filtune.live.serving.samples import excerpt
from filtune.live.serving.tickets import Answer

from tests.live.serving_runs import digits, new_learner, serving

XS, YS = digits()
HALF = "\ud800"
PAGES = ("/status", "/metrics", "/card", "/health")

HALVES: dict[str, tuple[str, Any, str]] = {
    "a text": ("/predict", {"x": HALF}, "x: a text holds half a surrogate pair"),
    "a pair": ("/predict", {"x": ["a", HALF]}, "x: a text holds half"),
    "another column": ("/predict", {"x": {"picture": XS[0], "junk": f"a {HALF}"}}, "x: a text holds half"),
    "a column's name": ("/predict", {"x": {"picture": XS[0], HALF: 1}}, "x: a text holds half"),
    "deep inside": ("/predict", {"x": {"picture": XS[0], "junk": [{"a": [HALF]}]}}, "x: a text holds half"),
    "one of many": ("/predict_many", {"samples": [{"x": XS[0]}, {"x": HALF}]}, "samples.1.x: a text holds half"),
    "learned": ("/learn", {"x": {"picture": XS[0], "junk": HALF}, "y": 1}, "x: a text holds half"),
    "an id": ("/predict", {"x": {"picture": XS[0]}, "id": HALF}, "id: must be an integer, or a text"),
    "a label": ("/feedback", {"id": 1, "y": HALF}, "y: a text holds half"),
    "a class of a list": ("/learn", {"x": {"picture": XS[0]}, "y": [HALF]}, "y: a text holds half"),
    "a field": ("/predict", {"x": {"picture": XS[0]}, HALF: 1}, "body: Input should be a valid string"),
}


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("columns")
    new_learner(columns=["picture"]).save(folder / "start.ckpt")
    with serving(folder) as client:
        yield client


@pytest.mark.parametrize("case", HALVES)
def test_half_a_surrogate_pair_is_refused_in_one_line(columns: Any, case: str) -> None:
    path, body, words = HALVES[case]
    answer = columns.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert [columns.get(page).status_code for page in PAGES] == [200] * 4


def test_a_whole_pair_is_a_character(columns: Any) -> None:
    body = json.dumps({"x": {"picture": XS[0], "junk": "\U0001f600"}, "id": "\U0001f600"})
    answer = columns.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    shown = columns.get("/status").json()["recent"][0]
    assert shown["id"] == "\U0001f600"
    assert shown["x"].startswith("picture: image of ")
    assert "junk" not in shown["x"]


def test_only_columns_that_are_read_are_shown() -> None:
    row = {"junk": "secret", "b": "two", "a": "one"}
    assert excerpt(row, "text", ["a", "b"]) == "a: one, b: two"
    assert excerpt({"low": 1, "high": 2}, "table") == "low: 1, high: 2"


def test_an_error_of_a_page_is_not_the_clients(columns: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> None:
        raise UnicodeEncodeError("utf-8", HALF, 0, 1, "surrogates not allowed")

    monkeypatch.setattr(ServiceMonitor, "status", broken)
    answer = columns.get("/status")
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("an error of the service")


def test_what_utf8_cannot_hold_is_shown_with_a_question_mark(columns: Any) -> None:
    columns.service.monitor.predicted([HALF], "text", [Answer(f"a{HALF}", {f"a{HALF}": 1.0})], [HALF])
    assert [columns.get(page).status_code for page in PAGES] == [200] * 4
    shown = columns.get("/status").json()["recent"][0]
    assert (shown["x"], shown["prediction"]) == ("?", "a?")
