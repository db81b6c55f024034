"""The how-to of docs/serve.md, from your own file to a service: it is run from the page."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filtune.live.serving.commands import serve_parser

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[str]:
    """The blocks of shell on a page."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def block() -> str:
    """The first block of shell on the page."""
    return blocks("docs/serve.md")[0]


def test_the_how_to_is_short() -> None:
    assert len(block().splitlines()) < 10


def test_the_readme_has_the_same_how_to() -> None:
    """Where it has one: what is run below is then the README's."""
    assert all(each == block() for each in blocks("README.md") if "filtune serve" in each)


def test_the_commands_of_the_page_are_understood() -> None:
    page = (ROOT / "docs" / "serve.md").read_text()
    found = re.findall(r"^filtune serve ([^&\n]*)", page, flags=re.MULTILINE)
    assert len(found) == 3
    for line in found:
        serve_parser().parse_args(shlex.split(line))
    options = set(re.findall(r"`(--[a-z_]+)`", page))
    assert options <= set(re.findall(r"--[a-z_]+", serve_parser().format_help()))


@pytest.mark.slow
def test_the_how_to_runs(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [f"{'good' if i % 2 else 'bad'} film plot {i},{'pos' if i % 2 else 'neg'}" for i in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shell = block().replace("8000", port)
    shell = shell.replace("backbone/minilm", f"backbone/minilm --model.backbone.name {tiny_bert}", 1)
    command = tmp_path / "bin" / "filtune"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m filtune "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment.pop("FILTUNE_TOKEN", None)
    done = subprocess.run(
        ["bash", "-ec", "trap 'kill $!; wait' EXIT\n" + shell],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    answers = re.findall(r"\{\"(?:prediction|outcomes)\".*?\}(?=\{|$)", done.stdout)
    prediction, accepted = (json.loads(answer) for answer in answers)
    assert prediction["prediction"] in ("pos", "neg")
    assert prediction["outcome"] == "waiting"
    assert accepted == {"outcomes": ["accepted"]}
    assert "Traceback" not in done.stderr
