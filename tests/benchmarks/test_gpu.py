"""The script for a CUDA device without one: every part runs tiny, errors and kills lose nothing, the time is kept."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.record import Record


def test_the_parts_share_the_time() -> None:
    """Those that run alone follow each other, the others run at once after them."""
    names = gpu.part_names()
    found = gpu.budgets(names, 480)
    alone = sum(found[name] for name in names if gpu.runs_alone(name))
    at_once = {found[name] for name in names if not gpu.runs_alone(name)}
    assert alone + max(at_once) == pytest.approx(480)
    assert len(at_once) == 1
    assert min(found.values()) > 30


def test_an_error_is_recorded_and_the_next_entry_goes_on(tmp_path: Path) -> None:
    record = Record(tmp_path / "part.json", torch.device("cpu"), seconds=60)
    record.attempt("bad", lambda: [][0])
    assert record.attempt("good", lambda: {"value": 1}) == {"value": 1}
    found = json.loads((tmp_path / "part.json").read_text())
    assert found["bad"]["error"][-1] == "IndexError: list index out of range"
    assert found["good"]["value"] == 1
    late = Record(tmp_path / "late.json", torch.device("cpu"), seconds=0)
    late.attempt("late", lambda: 1 / 0)
    assert json.loads((tmp_path / "late.json").read_text()) == {"late": {"skipped": "no time left"}}


def test_a_part_that_is_killed_keeps_what_it_has_written(tmp_path: Path) -> None:
    record = Record(tmp_path / "steps.json", torch.device("cpu"), seconds=60)
    record.attempt("first", lambda: {"value": 1})
    (tmp_path / "steps.log").write_text("  first: ...\nKilled\n")
    process = argparse.Namespace(returncode=-9)
    found = gpu.read_results("steps", process, tmp_path)  # type: ignore[arg-type]
    assert found["first"]["value"] == 1
    assert found["ended"]["status"] == -9
    assert "Killed" in found["ended"]["log"]


def test_four_bits_without_the_library_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu.parts import memory4bit

    monkeypatch.setattr(memory4bit, "find_spec", lambda name: None)
    monkeypatch.setattr(memory4bit, "measure_llama", lambda *_: {})
    monkeypatch.setattr(Record, "cuda", property(lambda self: True))
    monkeypatch.setattr(Record, "clean", lambda self: None)
    record = Record(tmp_path / "memory4bit.json", torch.device("cpu"), seconds=60, quick=True)
    memory4bit.run_memory4bit(record)
    assert record.entries["4bit"] == {"skipped": "bitsandbytes is not installed"}
    assert "bfloat16 2 classes" in record.entries


@pytest.mark.slow
@pytest.mark.parametrize("part", [name for name in gpu.part_names() if name != "suite"])  # it is the tests themselves
def test_every_part_runs_tiny_on_a_cpu(part: str, tmp_path: Path) -> None:
    """Without errors; what needs a CUDA device says so."""
    target = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--tiny", "--seconds", "600", "--only", part, "--output", str(target)]
    subprocess.run([sys.executable, "-m", "benchmarks.gpu", *options], check=True, timeout=900)
    found = json.loads(target.read_text())[part]
    assert found["run"].get("error") is None
    assert {name: entry["error"] for name, entry in found.items() if "error" in entry} == {}
