"""The long run in short: what it records, that it goes on where it was, and that its checks can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.endurance import soak, soak_report

TIMES = {"median_seconds", "median_cpu_seconds", "memory_bytes"}
"""Figures of a window that differ from run to run."""


def figures(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records without what the machine has a part in."""
    return [{name: value for name, value in window.items() if name not in TIMES} for window in result["windows"]]


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(soak.METHODS))
def test_two_thousand_steps(method: str, tmp_path: Path) -> None:
    path = tmp_path / f"{method}.json"
    soak.main(["--method", method, "--steps", "2000", "--window", "100", "--output", str(path)])
    result = json.loads(path.read_text())
    assert result["finished"]
    assert len(result["windows"]) == 20
    assert not path.with_name(f"{path.name}.state").exists()
    # the machine is shared here: time is checked in the long runs alone
    assert {name for name, check in result["checks"].items() if not check["passed"]} <= {"step_time_ratio"}
    if method not in ("ring", "adamw"):
        assert all(0 < window["variance_min"] <= window["variance_max"] for window in result["windows"])


@pytest.mark.parametrize("method", ["filtune", "ring"])
def test_a_stopped_run_goes_on_to_the_same_figures(method: str, tmp_path: Path) -> None:
    whole = soak.soak(method, 90, tmp_path / "whole.json", window=30)
    path = tmp_path / "parts.json"
    results = [soak.soak(method, 90, path, window=30, seconds=1e-9) for _ in range(3)]
    assert [result["finished"] for result in results] == [False, False, True]
    assert figures(results[-1]) == figures(whole)


def test_the_checks_name_what_does_not_hold() -> None:
    window = {"nll": 0.1, "accuracy": 95.0, "median_cpu_seconds": 1e-3, "memory_bytes": 2**27, "variance_min": 1e-3}
    windows = [{**window, "step": 1000 * (i + 1)} for i in range(100)]
    result = {"windows": windows, "steps": 100_000, "window": 1000, "change_step": 90_000, "warnings": []}
    assert all(check["passed"] for check in soak_report.check_soak(result).values())

    def failed(**values: Any) -> set[str]:
        changed = [{**w, **{name: value(w["step"]) for name, value in values.items()}} for w in windows]
        return {
            name
            for name, check in soak_report.check_soak({**result, "windows": changed}).items()
            if not check["passed"]
        }

    assert failed(memory_bytes=lambda step: 2**27 + 300 * step) == {"memory_growth_bytes"}
    assert failed(median_cpu_seconds=lambda step: 1e-3 * (1 + step / 1e5)) == {"step_time_ratio"}
    assert failed(variance_min=lambda step: 0.0 if step == 50_000 else 1e-3) == {"variance_min"}
    assert failed(accuracy=lambda step: 0.0 if step > 90_000 else 95.0) == {"accuracy_after_change"}
    reported = {**result, "warnings": [{"last_step": 95_000}]}
    reported["windows"] = [{**w, "accuracy": 0.0 if w["step"] > 90_000 else 95.0} for w in windows]
    assert soak_report.check_soak(reported)["accuracy_after_change"]["passed"]


def test_results_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "loko.json"
    soak.soak("loko", 20, path, window=5)
    soak.main(["--plot", str(path), "--output", str(tmp_path / "soak.png")])
    assert (tmp_path / "soak.png").stat().st_size > 10_000
