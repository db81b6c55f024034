"""The benchmark runs, offline, on every model, and keeps what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import step_time
from benchmarks.models import MODELS


def test_figures_are_kept_with_the_environment(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    step_time.main(["--model", "lenet5", "--outputs", "3", "--rounds", "4", "--warmup", "1", "--output", str(target)])
    result = json.loads(target.read_text())
    assert set(result["optimizers"]) == set(step_time.OPTIMIZERS)
    assert result["optimizers"]["adamw"]["ratio_to_adamw"] == 1.0
    for name, figures in result["optimizers"].items():
        assert figures["median_seconds"] > 0
        assert figures["peak_step_bytes"] > 0
        assert (figures["state_bytes"] > 0) == (name != "sgd")
    n = result["trainable_parameters"]
    assert result["optimizers"]["adamw"]["state_bytes"] >= 8 * n
    assert 4 * n <= result["optimizers"]["loko"]["state_bytes"] < 4 * n + 1000
    assert {"device", "versions", "threads", "commit", "date"} <= set(result["environment"])


def test_the_reference_is_needed(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        step_time.main(["--optimizers", "loko"])
    assert "adamw is the reference" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("outputs", [2, 5])
def test_models_give_that_many_outputs(name: str, outputs: int) -> None:
    case = MODELS[name](outputs, None, 7).eval()
    assert case(case.sample(torch.Generator(), 2)).shape == (2, outputs)
