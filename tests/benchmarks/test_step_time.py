"""The benchmark runs, offline, on every model, and keeps what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import step_time
from benchmarks.models import MODELS, transformer
from benchmarks.timing import batches, build_methods, interleave


def test_figures_are_kept_with_the_environment(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    step_time.main(["--model", "lenet5", "--outputs", "3", "--rounds", "4", "--warmup", "1", "--output", str(target)])
    result = json.loads(target.read_text())
    assert set(result["optimizers"]) == {"floor", "ordinary-floor", *step_time.DEFAULT}
    assert result["optimizers"]["adamw"]["ratio_to_adamw"] == result["optimizers"]["floor"]["ratio_to_floor"] == 1.0
    for name, figures in result["optimizers"].items():
        assert figures["median_seconds"] > 0
        assert figures["ratio_to_floor"] > 0
        assert figures["ratio_of_sums_to_adamw"] > 0
        filters = name in ("filtune", "loko", "loko-logits", "r-kalman", "low-rank")
        assert ("algebra_share" in figures) == filters
        assert not filters or 0 < figures["algebra_share"] < 1
        if "floor" not in name:
            assert figures["peak_step_bytes"] > 0
            assert (figures["state_bytes"] > 0) == (name != "sgd")
    n = result["trainable_parameters"]
    assert result["rounds"] == 4
    assert result["optimizers"]["adamw"]["state_bytes"] >= 8 * n
    assert 4 * n <= result["optimizers"]["loko"]["state_bytes"] < 4 * n + 1000
    assert {"device", "versions", "threads", "commit", "date"} <= set(result["environment"])


def test_rounds_end_with_the_seconds_but_not_before_three() -> None:
    case = MODELS["lenet5"](2, None, 0)
    device = torch.device("cpu")
    methods = build_methods(case, ["adamw"], 2, device)
    assert interleave(methods, batches(case, 2, 1, device), warmup=1, rounds=50, seconds=0.0) == 3
    assert all(len(method.seconds) == 3 for method in methods.values())


def test_methods_share_what_is_frozen_and_nothing_else() -> None:
    case = transformer(2, 2, ["query"])
    methods = build_methods(case, ["adamw", "loko"], 2, torch.device("cpu"))
    for name, param in case.named_parameters():
        copies = {id(method.case.get_parameter(name)) for method in methods.values()}
        assert len(copies) == (len(methods) if param.requires_grad else 1)


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
