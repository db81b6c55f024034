"""Images uploaded as files, in forms: the same as their base64 in JSON, within the same limits."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from filtune.live.serving.access import Limits
from filtune.live.serving.forms import MOST_PARTS, json_of_form
from filtune.live.serving.state import SNAPSHOT

from filtune import OnlineLearner
from tests.live.serving_runs import differences, digits, new_learner, serving

XS, YS = digits()
FILES = [base64.b64decode(x) for x in XS]
KIND = b"multipart/form-data; boundary=B"


def part(name: str, content: bytes, *more: str) -> bytes:
    head = "".join(f"\r\n{each}" for each in more[1:])
    said = f'--B\r\nContent-Disposition: form-data; name="{name}"{more[0] if more else ""}{head}\r\n\r\n'
    return said.encode() + content + b"\r\n"


END = b"--B--\r\n"


def test_uploads_are_what_json_is(folder: Path) -> None:
    reference = new_learner()
    with serving(folder) as client:
        for i in range(3):
            upload = {"x": (f"{i}.png", FILES[i], "image/png")}
            answer = client.post("/predict", files=upload, data={"id": f"i{i}"})
            assert answer.json() == client.post("/predict", json={"x": XS[i]}).json() | {"outcome": "waiting"}
            assert answer.json()["prediction"] == reference.predict_one(FILES[i], id=f"i{i}")
        upload = {"x": ("3.png", FILES[3], "image/png")}
        answer = client.post("/learn?learned=true", files=upload, data={"y": str(YS[3]), "id": "i3"})
        assert answer.json() == {"outcomes": ["accepted"]}
        reference.learn_one(FILES[3], YS[3])
        answer = client.post("/feedback?learned=true", data={"y": str(YS[1]), "id": "i1"}, files={"none": b""})
        assert answer.status_code == 422  # another field
        form = {"y": (None, str(YS[1])), "id": (None, "i1")}
        assert client.post("/feedback?learned=true", files=form).json() == {"outcomes": ["accepted"]}
        reference.feedback("i1", YS[1])
        assert client.get("/status").json()["recent"][-1]["x"] == f"image of {len(XS[0]) * 3 // 4:,} bytes"
        described = client.get("/openapi.json").json()["paths"]["/learn"]["post"]["requestBody"]["content"]
        assert list(described) == ["application/json", "multipart/form-data"]
        assert "-F x=@image.jpg -F y=LABEL" in client.get("/docs").text
    assert differences(OnlineLearner.load(folder / "serving" / SNAPSHOT), reference) == []


def test_a_file_that_is_too_long_or_no_image_is_refused(folder: Path) -> None:
    with serving(folder, limits=Limits(max_body=5000)) as client:
        assert client.post("/predict", files={"x": ("a.png", b"\0" * 5000)}).status_code == 413
        answer = client.post("/predict", files={"x": ("a.png", b"\0" * 100)})
        assert answer.status_code == 422
        assert answer.json() == {"error": "x: not the base64 of an image file that can be decoded"}
        assert client.post("/learn", files={"x": ("a.png", FILES[0])}).json() == {"error": "y: Field required"}
        bad = client.post("/predict", content=b"--C", headers={"Content-Type": "multipart/form-data; boundary=B"})
        assert bad.status_code == 400
        assert client.service.state.journal.end == 0


@pytest.mark.parametrize(
    ("kind", "y", "expected"),
    [("regression", ["1.5"], 1.5), ("multilabel", ["round", "open"], ["round", "open"]), ("classification", ["3"], 3)],
)
def test_labels_of_every_task(tmp_path: Path, kind: str, y: list[str], expected: Any) -> None:
    classes = {"regression": (), "multilabel": ["round", "open"], "classification": [1, 3]}[kind]
    reference = new_learner(kind=kind, classes=classes)
    reference.save(tmp_path / "start.ckpt")
    with serving(tmp_path) as client:
        form = [("x", ("a.png", FILES[0])), *(("y", (None, each)) for each in y)]
        assert client.post("/learn?learned=true", files=form).json() == {"outcomes": ["accepted"]}
        reference.learn_one(FILES[0], expected)
        assert differences(client.service.learner, reference) == []


def test_texts_and_files_of_texts() -> None:
    body = part("x", "gut ü".encode()) + part("x", b"a\nb", '; filename="a.txt"', "Content-Type: text/plain") + END
    assert json.loads(json_of_form(KIND, body)) == {"x": ["gut ü", "a\nb"]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the form has no end"),
        (part("x", b"a"), "the form has no end"),
        (b"--C\r\n", "the body is no form: Expected boundary"),
        (b"--B\r\n\r\na\r\n" + END, "a field of the form has no name"),
        (part("x", b"\xff") + END, "x: the field of the form is no text in UTF-8"),
        (part("x", b"a") * (MOST_PARTS + 1) + END, f"the form has more than {MOST_PARTS} fields"),
        (part("x" * 9000, b"a") + END, "the body is no form: Maximum header size"),
    ],
)
def test_what_is_no_form_is_refused_in_one_line(body: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        json_of_form(KIND, body)
    assert "\n" not in str(caught.value)
    for cut in range(0, len(body), 7):  # nor does a form that was cut end in anything else
        with pytest.raises(ValueError, match="form"):
            json_of_form(KIND, body[:cut])


def test_a_blank_id_is_none_in_a_form_and_refused_in_json(folder: Path) -> None:
    """A page sends an empty field; one id for all samples without one would make their labels duplicates."""
    body = part("id", b" ") + part("x", b"text") + END
    assert json.loads(json_of_form(KIND, body)) == {"x": "text"}
    with serving(folder) as client:
        for _ in range(2):
            form = {"x": ("a.png", FILES[0], "image/png"), "y": (None, str(YS[0])), "id": (None, "")}
            assert client.post("/learn", files=form).json() == {"outcomes": ["accepted"]}
        answer = client.post("/learn", json={"x": XS[0], "y": YS[0], "id": ""})
        assert answer.status_code == 422
        assert "that is not blank" in answer.text
