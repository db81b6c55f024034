"""What ``filtune serve`` refuses: requests, clients, options and folders, each in one line."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from filtune.live.serving.access import Limits, Rates, is_loopback, read_token
from filtune.live.serving.journal import Journal
from filtune.live.serving.state import SNAPSHOT, open_state
from PIL import Image

from tests.live.serving_runs import digits, learn, new_learner, serving

XS, YS = digits()
TOKEN = "0123456789abcdef-secret"


BAD: list[tuple[str, str, Any, int, str]] = [
    ("no x", "/predict", {}, 422, "x: Field required"),
    ("a path", "/predict", {"x": __file__}, 422, "paths and addresses are not read"),
    ("an address", "/predict", {"x": "http://localhost/a.png"}, 422, "paths and addresses are not read"),
    ("a file's address", "/predict", {"x": "file:///etc/hostname"}, 422, "paths and addresses are not read"),
    ("the path of an image", "/predict", {"x": {"path": "a.png"}}, 422, "columns"),
    ("no image", "/predict", {"x": base64.b64encode(b"text").decode()}, 422, "cannot|can be decoded"),
    ("ragged", "/predict", {"x": [[1, 2], [3]]}, 422, "no image"),
    ("no pixels", "/predict", {"x": [[]]}, 422, "no pixels"),
    ("a huge number", "/predict", {"x": [[10**400]]}, 422, "x: "),
    ("a huge label", "/learn", {"x": XS[0], "y": 10**400}, 422, "y: "),
    ("a list as label", "/learn", {"x": XS[0], "y": [1]}, 422, "y: one class is needed"),
    ("another field", "/predict", {"x": XS[0], "z": 1}, 422, "z: Extra"),
    ("a long id", "/predict", {"x": XS[0], "id": "a" * 201}, 422, "id: must be an integer, or a text of 1 to 200"),
    ("an id that is true", "/predict", {"x": XS[0], "id": True}, 422, "id: must be"),
    ("a huge id", "/predict", {"x": XS[0], "id": 2**63}, 422, "id: must be"),
    ("no class", "/learn", {"x": XS[0], "y": 10}, 422, "not among the classes .*--new_classes add"),
    ("no label", "/learn", {"x": XS[0], "y": None}, 422, "y: must be a text, a number"),
    ("an object as label", "/learn", {"x": XS[0], "y": {"a": 1}}, 422, "y: must be a text"),
    ("a blank label", "/learn", {"x": XS[0], "y": " "}, 422, "y: the label is missing"),
    ("the second of many", "/learn_many", {"samples": [{"x": XS[0], "y": 1}, {"x": XS[0], "y": 11}]}, 422, "sample 1"),
    ("none", "/learn_many", {"samples": []}, 422, "samples: "),
    ("too many", "/learn_many", {"samples": [{"x": XS[0], "y": 1}] * 257}, 413, "257 samples are more than 256"),
    ("half a surrogate pair", "/feedback", {"id": 1, "y": "\ud800"}, 422, "y: "),
    ("another method", "/nowhere", {}, 404, "Not Found; the endpoints are at /docs"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_request_is_refused_in_one_line(client: Any, path: str, body: Any, status: int, words: str) -> None:
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    (text,) = answer.json().values()
    assert re.search(words, text), text
    assert "\n" not in text
    assert "Traceback" not in text
    assert client.service.state.journal.end == 0  # nothing of it was accepted


BODIES = {
    "empty": b"", "cut": b"[", "deep": b"[" * 100_000, "deep x": b'{"x":' + b"[" * 100_000, "bytes": b"\xff",
    "long number": b'{"x":' + b"9" * 5000 + b"}", "NaN": b'{"x":NaN,"y":1}',
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_request_is_refused(client: Any, body: bytes) -> None:
    answer = client.post("/learn", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert list(answer.json()) == ["error"]


def test_a_body_without_its_type_is_refused_with_the_header(client: Any) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = client.post("/learn", content=json.dumps({"x": XS[0], "y": YS[0]}), headers=headers)
        assert answer.status_code == 422
        assert "Content-Type: application/json" in answer.json()["error"]


def test_an_image_that_unpacks_to_gigabytes_is_refused(client: Any) -> None:
    file = BytesIO()
    Image.new("1", (6000, 5000)).save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    answer = client.post("/predict", json={"x": data})
    assert answer.status_code == 422
    assert "30,000,000 pixels" in answer.json()["error"]


def test_a_body_that_is_too_long_is_refused_before_it_is_read(folder: Path) -> None:
    with serving(folder, limits=Limits(max_body=1000)) as client:
        sent = {"count": 0}

        def parts() -> Iterator[bytes]:
            for _ in range(10):
                sent["count"] += 1
                yield b" " * 300

        headers = {"Content-Type": "application/json"}
        assert client.post("/learn", content=b" " * 1001, headers=headers).status_code == 413
        assert client.post("/learn", content=parts(), headers=headers).status_code == 413
        assert client.post("/learn", content=b" " * 1000, headers=headers).status_code == 400


def test_a_token_is_needed_for_all_that_shows_or_changes_something(folder: Path) -> None:
    with serving(folder, TOKEN) as client:
        for path in ("/", "/page.js", "/page.css", "/docs", "/openapi.json", "/health"):
            assert client.get(path).status_code == 200
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
            for path in ("/status", "/metrics", "/card"):
                assert client.get(path, headers=headers).status_code == 401
            for path in ("/predict", "/learn", "/feedback", "/predict_many", "/learn_many", "/feedback_many"):
                assert client.post(path, json={}, headers=headers).status_code == 401
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/status", headers=allowed).status_code == 200
        assert client.post("/predict", json={"x": XS[0]}, headers=allowed).status_code == 200
        elsewhere = {**allowed, "Host": "model.example"}
        assert client.post("/predict", json={"x": XS[0]}, headers=elsewhere).status_code == 200


def test_pages_of_other_sites_cannot_use_a_service_without_a_token(client: Any) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example:8000"}):
        assert client.post("/predict", json={"x": XS[0]}, headers=headers).status_code == 403
    for headers in ({"Origin": "http://localhost:8000"}, {"Host": "127.0.0.1"}, {"Host": "[::1]:8000"}):
        assert client.post("/predict", json={"x": XS[0]}, headers=headers).status_code == 200


def test_a_folder_of_another_checkpoint_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    with serving(folder):
        pass
    new_learner(seed=1).save(folder / "other.ckpt")
    line = refused("serve", "--ckpt_path", str(folder / "other.ckpt"))
    assert "it holds what was learned from another checkpoint; name another --state_dir" in line


def test_a_folder_in_use_or_without_its_snapshot_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filtune.lightning_modules.locks.FolderLock.acquire.__defaults__", (0.0,))
    with serving(folder), pytest.raises(ValueError, match="another command .* writes into this folder"):
        open_state(folder / "start.ckpt", None)
    journal = Journal(folder / "serving" / "log")
    list(journal.read(0))
    journal._open(journal._path(0))
    (folder / "serving" / SNAPSHOT).unlink()
    with pytest.raises(ValueError, match=r"snapshot\.ckpt: missing, though there is a log"):
        open_state(folder / "start.ckpt", None)


@pytest.mark.parametrize("name", ["serving", "serving/log", "serving/snapshot.ckpt"])
def test_a_link_in_the_folder_of_a_run_is_not_written_through(
    folder: Path, refused: Callable[..., str], name: str
) -> None:
    (folder / "elsewhere").mkdir()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(folder / "elsewhere")
    line = refused("serve", "--ckpt_path", str(folder / "start.ckpt"), "--port", "0")
    assert f"{folder / name}: is a symbolic link, and would be written through; name a --state_dir" in line
    assert not list((folder / "elsewhere").iterdir())


def test_a_damaged_log_is_refused_with_its_place(folder: Path, refused: Callable[..., str]) -> None:
    with serving(folder) as client:
        client.service._saved_at = 10**9  # no snapshot at the end
        for i in range(3):
            learn(client, range(i, i + 1))
        client.service._save = lambda: None
    (segment,) = (folder / "serving" / "log").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b'"y":', b'"z":', 1))
    line = refused("serve", "--ckpt_path", str(folder / "start.ckpt"), "--port", "0")
    assert f"{segment}, line 1: its checksum is wrong" in line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it, which needs a token; set FILTUNE_TOKEN"),
        (["--host", "::"], "needs a token"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: no such address"),
        (["--port", "-1"], "--port: must be 0 or more"),
        (["--port", "70000"], "--port: must be at most 65535"),
        (["--max_batch", "0"], "--max_batch: must be positive"),
        (["--max_rate", "nan"], "--max_rate: must be a number"),
        (["--token_file", "nowhere"], "--token_file nowhere: cannot be read"),
        ([], "there is no checkpoint nowhere"),
    ],
)
def test_options_are_refused_in_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, args: list[str], words: str
) -> None:
    monkeypatch.delenv("FILTUNE_TOKEN", raising=False)
    assert words in refused("serve", "--ckpt_path", "nowhere", *args, *([] if "--port" in args else ["--port", "0"]))


def test_a_missing_package_is_named_with_the_extra(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filtune.live.serving.commands.find_spec", lambda name: None)
    assert "filtune serve needs fastapi; pip install 'filtune[serve]'" in refused("serve", "--ckpt_path", "nowhere")


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FILTUNE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("FILTUNE_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}2\n")
    assert read_token(tmp_path / "token") == f"{TOKEN}2"
    for bad in ("", "short", "with a space in it 123", "ümlaute ümlaute ümlaute"):
        monkeypatch.setenv("FILTUNE_TOKEN", bad)
        with pytest.raises(ValueError, match="16 or more printable ASCII"):
            read_token(None)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")] == [True] * 3 + [
        False
    ] * 2


def test_rates_follow_the_time_that_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("filtune.live.serving.access.time.monotonic", lambda: now[0])
    rates = Rates(2.0)
    assert [rates.wait("a") for _ in range(4)] == [0, 0, 0.5, 0.5]
    assert rates.wait("b") == 0  # another address
    now[0] = 0.5
    assert [rates.wait("a") for _ in range(2)] == [0, 0.5]
    now[0] = 1000.0
    assert [rates.wait("a") for _ in range(3)] == [0, 0, 0.5]
    assert Rates(0).wait("a") == 0
