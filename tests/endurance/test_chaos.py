"""A few kills of ``python -m tests.endurance.chaos``, which makes hundreds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.endurance.chaos import first_difference, main, run_trials
from tests.endurance.chaos_setups import SETUPS


def test_differences_are_found_bit_for_bit() -> None:
    tree = {"a": [torch.tensor([0.0, 1.0]), float("nan")], "b": "x"}
    assert first_difference(tree, {"a": [torch.tensor([0.0, 1.0]), float("nan")], "b": "x"}) is None
    assert first_difference(tree, {"a": [torch.tensor([-0.0, 1.0]), float("nan")], "b": "x"}) == "/a/0"
    assert first_difference(tree, {"a": tree["a"]}) == ": ['b'] on one side alone"
    assert first_difference(tree, {**tree, "b": "y"}) == "/b: 'x' and 'y'"


def test_ten_kinds_of_commands_are_killed() -> None:
    assert len(SETUPS) >= 10
    assert {setup.args[0] for setup in SETUPS} == {"fit", "sweep", "reproduce", "report", "export", "predict"}


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "chaos.json"
    names = ["ring", "predict", "export"]
    found = run_trials(6, output, seed=1, names=names, seconds=1200, root=tmp_path / "work")
    assert found["kills"] >= 6
    assert found["identical"] == found["trials"], [trial["fault"] for trial in found["records"]]
    again = run_trials(6, output, seed=1, names=names, seconds=1200, root=tmp_path / "work")  # nothing is left to do
    assert again["records"] == found["records"] == json.loads(output.read_text())["records"]
    monkeypatch.setattr("sys.argv", ["chaos", "--kills", "6", "--seed", "1", "--output", str(output)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
