"""The measurements of start-up and scale: they read what Python reports, and keep what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scale, startup

REPORT = """\
import time: self [us] | cumulative | imported package
import time:       300 |        300 |   torch._C
a warning between two lines
import time:       500 |        800 | torch
import time:       200 |       1000 | filtune.cli
"""


def test_import_time_is_shared_out_among_packages() -> None:
    assert startup.package_shares(REPORT) == {"torch": 0.8, "filtune": 0.2}


def test_a_command_that_fails_is_reported() -> None:
    with pytest.raises(SystemExit, match="exit.3. failed: no such model"):
        startup.cpu_seconds(["-c", "import sys; sys.stderr.write('no such model'); exit(3)"])


def test_a_language_model_is_measured_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"vocab_size": 50, "hidden_size": 28, "intermediate_size": 32}
    monkeypatch.setattr(scale, "SHAPE", {**scale.SHAPE, **small})
    output = tmp_path / "scale.json"
    options = ["--layers", "2", "--steps", "1", "--length", "4", "--labels", "20", "--threads", "1"]
    scale.main([*options, "--output", str(output)])
    record = json.loads(output.read_text())
    assert record["trained_parameters"] == 2 * 8 * (28 + 28 + 28 + 4) + 20 * 28  # queries, values (2 heads of 2), head
    frozen = record["parameters"] - record["trained_parameters"]
    assert record["weights_bytes"] == 2 * frozen + 4 * record["trained_parameters"]
    assert set(record["optimizers"]) == {"adamw", "filtune"}
    assert record["peak_bytes"] >= record["peak_bytes_before_a_step"] > 0
