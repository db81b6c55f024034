"""The ablations of GRNG's appendix H run on a few samples, are kept, and go on where they were stopped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.papers import grng_ablations, learning
from benchmarks.papers.grng_ablations import BATCH, PENALTY_COEFFICIENTS, RHO, STUDIES, Rule

LINES = {"ring skip=2": Rule("RING", {"skip": 2}), "reng skip=2": Rule("RENG", {"skip": 2})}


@pytest.fixture
def command(generated_glue: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(STUDIES, "table6", dataclasses.replace(STUDIES["table6"], lines=LINES))
    monkeypatch.setattr(grng_ablations, "RATES", (1e-3, 1e-2))
    local = [
        f"--glue={generated_glue}",
        f"--backbone={tiny_bert}",
        f"--runs={tmp_path / 'runs'}",
        f"--output={tmp_path / 'out'}",
    ]
    return ["table6", *local, "--samples=10", "--test-samples=6", "--seeds=2", "--threads=1"]


def test_a_table_is_made_and_made_again_from_what_was_kept(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grng_ablations.main(command)
    first = json.loads((tmp_path / "out.json").read_text())
    assert set(first["results"]) == {*LINES, "adamw lr=0.001", "adamw lr=0.01"}
    assert first["best_adamw"] in first["results"]
    for line in first["results"].values():
        assert len(line["score"]["seeds"]) == 2
        assert all(-100 <= score <= 100 for score in line["score"]["seeds"])
        assert line["seconds"]["mean"] > 0
        assert line["runs"][0]["step"] == [0, 1]  # ten samples are one batch
    assert (tmp_path / "out.png").stat().st_size > 10_000
    monkeypatch.setattr(grng_ablations, "follow", lambda *_: pytest.fail("nothing is left to do"))
    grng_ablations.main(command)
    assert json.loads((tmp_path / "out.json").read_text())["results"] == first["results"]


def test_the_paper_s_values_are_there() -> None:
    assert [rule.arguments["skip"] for rule in STUDIES["table6"].lines.values()] == 2 * [2, 4, 6, 8, 10]
    assert [rule.arguments["skip"] for rule in STUDIES["table7"].lines.values()] == 2 * [4, 8, 16, 32]
    assert STUDIES["table6"].iterations == 20
    varied: dict[str, list[Any]] = {}
    for rule in STUDIES["figures"].lines.values():
        for name, value in rule.arguments.items():
            varied.setdefault(f"{rule.name} {name}", []).append(value)
    assert varied == {"RING rho": [*RHO], "RENG rho": [*RHO], "RENG grad_penalty": [*PENALTY_COEFFICIENTS]}
    assert BATCH == 16


def test_the_seconds_are_those_of_the_steps_alone(
    generated_glue: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that each look at it moves by one, and each evaluation by a thousand."""
    problem = learning.Problem("stsb", 10, str(generated_glue), str(tiny_bert), 6, batch_size=4)
    clock = {"now": 0.0}

    def look() -> float:
        clock["now"] += 1
        return clock["now"]

    def slow(*_: Any) -> dict[str, float]:
        clock["now"] += 1000
        return {"score": 0.0, "loss": float("nan")}

    monkeypatch.setattr(grng_ablations.time, "process_time", look)
    monkeypatch.setattr(grng_ablations, "score", slow)
    slowed = grng_ablations.follow(problem, Rule("SGD", {}), 0)
    assert 0 < slowed["seconds"] < 1000
    assert slowed["loss"] == [None] * len(slowed["step"])  # what is not finite is kept as null
