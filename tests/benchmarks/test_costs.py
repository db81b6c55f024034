"""Benchmarks of a step's cost: they run offline, keep what they measured, and train as many parameters as they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import classes, cost, natural_cost, step_time, table3
from benchmarks.methods import OPTIMIZERS
from benchmarks.models import MODELS, transformer
from benchmarks.natural_cost import SKIP, split_refreshes
from benchmarks.timing import batches, build_methods, interleave

TABLE6 = {"DenseNet-121": 166e3, "ResNet18": 150e3, "ViT-B16": 155e3, "ResNet50": 520e3}
TABLE6 |= {"RoBERTa-base": 666e3, "RoBERTa-large": 1248e3}


def test_every_filter_is_in_the_grid_and_blocks_are_only_where_they_fit() -> None:
    cells = list(cost.grid())
    assert {name for cell in cells for name in cell.optimizers()} == set(OPTIMIZERS) - {"sgd", "adagrad", "soap"}
    assert {(cell.state, cell.outputs) for cell in cells if cell.batch == 1} == {
        (state, outputs) for state in ("1e4", "1e5", "1e6") for outputs in (2, 10, 100)
    }
    assert {cell.batch for cell in cells} == {1, 2, 4, 8}
    assert {(cell.state, cell.outputs) for cell in cells if "full" in cell.optimizers()} == {("1e4", 2), ("1e4", 10)}


@pytest.mark.slow
def is_drawn(path: Path) -> bool:
    """Whether an image has lines of several colours and text."""
    with Image.open(path) as image:
        return image.width > 300 and len(image.convert("RGB").getcolors(2**16) or []) > 20


def test_a_point_of_the_grid_is_kept_with_a_plot(tmp_path: Path) -> None:
    options = ["--states", "1e5", "--outputs", "2", "--batches", "1", "2", "--seconds", "0"]
    cost.main([*options, "--output", str(tmp_path / "cost")])
    result = json.loads((tmp_path / "cost.json").read_text())
    assert [(cell["state"], cell["outputs"], cell["batch"]) for cell in result["cells"]] == [
        ("1e5", 2, 1),
        ("1e5", 2, 2),
    ]
    for cell in result["cells"]:
        assert cell["rounds"] == 3
        assert cell["trainable_parameters"] == 83_714
        assert {"floor", "ordinary-floor", "adamw", "loko", "r-kalman", "low-rank", "neuron"} <= set(cell["optimizers"])
    assert {"device", "versions", "threads", "commit", "date"} <= set(result["environment"])
    assert is_drawn(tmp_path / "cost.png")


def test_a_scene_is_kept_with_a_plot(tmp_path: Path) -> None:
    rules = ["adamw", "ngd", "ring", "reng", "sophia"]
    options = ["--scenes", "lenet-5, 10 classes, 32 images", "--periods", "1", "--optimizers", *rules]
    natural_cost.main([*options, "--threads", "1", "--output", str(tmp_path / "cost")])
    result = json.loads((tmp_path / "cost.json").read_text())
    (scene,) = result["scenes"].values()
    assert scene["rounds"] == SKIP
    assert scene["trainable_parameters"] == 61_706
    figures = scene["optimizers"]
    assert list(figures) == rules
    assert figures["adamw"]["period"] == 1
    assert figures["ngd"]["lazy"] is None
    ring = figures["ring"]
    assert ring["period"] == pytest.approx((ring["refresh"] + (SKIP - 1) * ring["lazy"]) / SKIP)
    assert ring["refresh"] > ring["lazy"]  # a refresh draws labels, averages factors and inverts them
    assert ring["state_bytes"] > 4 * 2 * (401**2 + 120**2)  # fc1's factors and their inverses
    assert {"device", "versions", "threads", "commit", "date"} <= set(result["environment"])
    assert is_drawn(tmp_path / "cost.png")


def test_refreshes_are_told_from_lazy_steps() -> None:
    """A rule of period 8 refreshes at step 8, the first after the warm-up; one of period 10 at steps 10 and 20."""
    ratios = [float(k) for k in range(SKIP, 24)]
    assert split_refreshes(ratios, 8)[0] == [8, 16]
    assert split_refreshes(ratios, 10)[0] == [10, 20]
    assert split_refreshes(ratios, 1) == (ratios, [])
    assert sorted(split_refreshes(ratios, 8)[0] + split_refreshes(ratios, 8)[1]) == ratios


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


@pytest.mark.parametrize(("benchmark", "other"), [(step_time, "loko"), (natural_cost, "ring")])
def test_the_reference_is_needed(benchmark: Any, other: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--optimizers", other])
    assert "adamw is the reference" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("outputs", [2, 5])
def test_models_give_that_many_outputs(name: str, outputs: int) -> None:
    case = MODELS[name](outputs, None, 7).eval()
    assert case(case.sample(torch.Generator(), 2)).shape == (2, outputs)


@pytest.mark.parametrize("name", table3.PAIRS)
def test_trained_parameters_are_those_of_the_paper(name: str) -> None:
    pair = table3.PAIRS[name]
    with torch.device("meta"):
        model = pair.build()
    trained = {param_name: p.numel() for param_name, p in model.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == pair.parameters
    model_name = name.partition("/")[2]
    if model_name in TABLE6 and not (model_name == "ViT-B16" and pair.outputs == 100):  # it lists one head a model
        assert pair.parameters == pytest.approx(TABLE6[model_name], rel=0.01)


def test_graphs_need_a_gpu(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        table3.main(["--graphs"])
    assert "take --device cuda" in capsys.readouterr().err


@pytest.mark.slow
def test_a_pair_runs_on_the_cpu(tmp_path: Path) -> None:
    target = tmp_path / "table3.json"
    options = ["--pairs", "CIFAR10/ResNet18", "--rounds", "3", "--warmup", "1", "--plain-attention"]
    table3.main([*options, "--output", str(target)])
    (pair,) = json.loads(target.read_text())["pairs"]
    assert pair["rounds"] == 3
    assert set(pair["optimizers"]) == {"floor", "ordinary-floor", "adamw", "loko"}
    assert pair["paper_ratio"] == pytest.approx(15.7, abs=0.1)


def test_the_cost_over_classes_is_kept_with_a_plot(tmp_path: Path) -> None:
    options = ["--models", "lenet5", "--classes", "2", "12", "--rounds", "3", "--seconds", "0"]
    classes.main([*options, "--threads", "1", "--output", str(tmp_path / "cost_classes")])
    result = json.loads((tmp_path / "cost_classes.json").read_text())
    assert [(point["outputs"], point["rounds"]) for point in result["points"]] == [(2, 3), (12, 3)]
    assert [list(point["optimizers"]) for point in result["points"]] == [["floor", *classes.METHODS]] * 2
    assert result["points"][0]["optimizers"]["adamw"]["ratio_to_adamw"] == 1.0
    assert is_drawn(tmp_path / "cost_classes.png")
