"""Benchmarks of a step's cost: they run offline, keep what they measured, and train as many parameters as they say."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import cost, step_time
from benchmarks.gpu.parts.steps import compare_on_model
from benchmarks.gpu.record import Record
from benchmarks.methods import OPTIMIZERS, SKIP
from benchmarks.models import MODELS, transformer
from benchmarks.tables import PAIRS, TABLES
from benchmarks.timing import Point, batches, build_methods, interleave, period_ratios

TABLE6 = {"DenseNet-121": 166e3, "ResNet18": 150e3, "ViT-B16": 155e3, "ResNet50": 520e3}
TABLE6 |= {"RoBERTa-base": 666e3, "RoBERTa-large": 1248e3}


POINTS = {name: list(table.points()) for name, table in TABLES.items()}


def test_every_filter_is_in_the_grid_and_blocks_are_only_where_they_fit() -> None:
    points = POINTS["filters"]
    filters = {"loko", "loko-logits", "r-kalman", "low-rank", "filtune", "filtune-top-3", "neuron", "tensor", "full"}
    assert {name for point in points for name in point.methods} == {"adamw", *filters}
    assert {(point.panel, point.outputs) for point in points if point.batch == 1} == {
        (f"n {state}, batch 1, over outputs", outputs) for state in ("1e4", "1e5", "1e6") for outputs in (2, 10, 100)
    }
    assert {point.batch for point in points} == {1, 2, 4, 8}
    full = {(point.name, point.outputs) for point in points if "full" in point.methods}
    assert full == {("n 1e4, 2 outputs, batch 1", 2), ("n 1e4, 10 outputs, batch 1", 10)}


def test_the_default_of_each_table_are_points_of_it_and_names_are_distinct() -> None:
    for name, points in POINTS.items():
        assert len({point.name for point in points}) == len(points)
        assert all(point.methods[0] == "adamw" for point in points)
        assert {method for point in points for method in point.methods} <= set(OPTIMIZERS)
        assert all(any(fnmatch(point.name, pattern) for point in points) for pattern in TABLES[name].default)


def is_drawn(path: Path) -> bool:
    """Whether an image has lines of several colours and text."""
    with Image.open(path) as image:
        return image.width > 300 and len(image.convert("RGB").getcolors(2**16) or []) > 20


def measured(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    """The points of one measurement, whose plot is drawn."""
    cost.main([*options, "--threads", "1", "--output", str(tmp_path / "kept" / "cost")])
    result = json.loads((tmp_path / "kept" / "cost.json").read_text())
    assert {"device", "versions", "threads", "commit", "date"} <= set(result["environment"])
    assert is_drawn(tmp_path / "kept" / "cost.png")
    return result["points"]


def test_points_of_the_grid_are_kept_with_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patterns = ["n 1e5, 2 outputs, batch [12]"]
    methods = ["--methods", "adamw", "loko", "low-rank"]
    points = measured(tmp_path, "--points", *patterns, *methods, "--seconds", "0", "--warmup", "1")
    assert [(point["outputs"], point["batch"], point["x"]) for point in points] == [(2, 1, 2), (2, 2, 2)]
    for point in points:
        assert point["rounds"] == 3
        assert point["trainable_parameters"] == 83_714
        assert list(point["optimizers"]) == ["floor", "ordinary-floor", "adamw", "loko", "low-rank"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "n 1e5, 2 outputs, batch 2 (2 outputs, batch 2, n = 83,714, 3 rounds)" in printed


def test_a_period_has_a_refresh_and_lazy_steps(tmp_path: Path) -> None:
    rules = ["adamw", "ngd", "ring", "reng", "sophia"]
    options = ["natural", "--points", "lenet-5*", "--rounds", str(SKIP), "--methods", *rules]
    (point,) = measured(tmp_path, *options)
    assert point["rounds"] == SKIP
    assert point["trainable_parameters"] == 61_706
    figures = point["optimizers"]
    assert list(figures) == ["floor", *rules]
    assert "period" not in figures["adamw"].keys() | figures["ngd"].keys()
    ring = figures["ring"]
    assert ring["period"] == pytest.approx((ring["refresh"] + (SKIP - 1) * ring["lazy"]) / SKIP)
    assert ring["refresh"] > ring["lazy"]  # a refresh draws labels, averages factors and inverts them
    assert ring["state_bytes"] > 4 * 2 * (401**2 + 120**2)  # fc1's factors and their inverses


def test_refreshes_are_distinguished_from_lazy_steps() -> None:
    """A rule of period 8 refreshes at step 8, the first after the warm-up; one of period 10 at steps 10 and 20."""
    ratios = [float(k) for k in range(SKIP, 24)]
    found = period_ratios(ratios, 8, SKIP)
    assert found["refresh"] == 12
    assert found["lazy"] == 16  # median of 9 to 15 and 17 to 23
    assert period_ratios(ratios, 10, SKIP)["refresh"] == 15
    assert period_ratios(ratios, 1, SKIP) == period_ratios(ratios[:1], 8, SKIP) == {}


def test_figures_are_kept_with_the_environment(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    step_time.main(["--model", "lenet5", "--outputs", "3", "--rounds", "4", "--warmup", "1", "--output", str(target)])
    result = json.loads(target.read_text())
    (point,) = result["points"]
    assert set(point["optimizers"]) == {"floor", "ordinary-floor", *step_time.DEFAULT}
    assert point["optimizers"]["adamw"]["ratio_to_adamw"] == point["optimizers"]["floor"]["ratio_to_floor"] == 1.0
    for name, figures in point["optimizers"].items():
        assert figures["median_seconds"] > 0
        assert figures["ratio_to_floor"] > 0
        assert figures["ratio_of_sums_to_adamw"] > 0
        filters = name in ("filtune", "loko", "loko-logits", "r-kalman", "low-rank")
        assert ("algebra_share" in figures) == filters
        assert not filters or 0 < figures["algebra_share"] < 1
        if "floor" not in name:
            assert figures["peak_step_bytes"] > 0
            assert (figures["state_bytes"] > 0) == (name != "sgd")
    n = point["trainable_parameters"]
    assert point["rounds"] == 4
    assert point["optimizers"]["adamw"]["state_bytes"] >= 8 * n
    assert 4 * n <= point["optimizers"]["loko"]["state_bytes"] < 4 * n + 1000
    assert {"device", "versions", "threads", "commit", "date"} <= set(result["environment"])


def test_rounds_end_with_the_seconds_but_not_before_three() -> None:
    methods, stream = lenet_methods("adamw")
    assert interleave(methods, stream, warmup=1, rounds=50, seconds=0.0) == 3
    assert all(len(method.seconds) == len(method.host_seconds) == 3 for method in methods.values())


def test_a_method_that_fails_is_left_out_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    methods, stream = lenet_methods("adamw", "loko")
    monkeypatch.setattr(methods["loko"], "work", lambda batch: [][0])
    with pytest.raises(IndexError):
        interleave(methods, stream, warmup=0, rounds=1, seconds=0.0)
    failed: dict[str, str] = {}
    assert interleave(methods, stream, warmup=0, rounds=3, seconds=0.0, block=2, failed=failed) == 3
    assert failed == {"loko": "IndexError: list index out of range"}
    assert set(methods) == {"floor", "adamw"}


def lenet_methods(*names: str) -> tuple[dict[str, Any], Any]:
    """Methods on LeNet-5 with two classes, and batches for them."""
    case, device = MODELS["lenet5"](2, None, 0), torch.device("cpu")
    methods = build_methods(Point("", lambda: case, 2, names), case, device)
    return methods, batches(case, 2, 1, device)


def test_methods_share_what_is_frozen_and_nothing_else() -> None:
    case = transformer(2, 2, ["query"])
    methods = build_methods(Point("", lambda: case, 2, ["adamw", "loko"]), case, torch.device("cpu"))
    for name, param in case.named_parameters():
        copies = {id(method.case.get_parameter(name)) for method in methods.values()}
        assert len(copies) == (len(methods) if param.requires_grad else 1)


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (step_time.main, ["--optimizers", "loko"], "--optimizers: adamw is the reference"),
        (cost.main, ["natural", "--methods", "ring"], "--methods: adamw is the reference"),
        (
            cost.main,
            ["table3", "--methods", "adamw", "loko-graph"],
            "graphs on a CUDA device alone; take --device cuda",
        ),
        (cost.main, ["classes", "--points", "lenet"], "--points: none has such a name; there are lenet5, 2 classes; "),
    ],
)
def test_what_cannot_be_measured_is_refused(
    main: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("outputs", [2, 5])
def test_models_give_that_many_outputs(name: str, outputs: int) -> None:
    case = MODELS[name](outputs, None, 7).eval()
    assert case(case.sample(torch.Generator(), 2)).shape == (2, outputs)


@pytest.mark.parametrize("name", PAIRS)
def test_trained_parameters_are_those_of_the_paper(name: str) -> None:
    pair = PAIRS[name]
    with torch.device("meta"):
        model = pair.build()
    trained = {param_name: p.numel() for param_name, p in model.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == pair.parameters
    model_name = name.partition("/")[2]
    if model_name in TABLE6 and not (model_name == "ViT-B16" and pair.outputs == 100):  # it lists one head a model
        assert pair.parameters == pytest.approx(TABLE6[model_name], rel=0.01)


@pytest.mark.slow
def test_a_pair_runs_on_the_cpu(tmp_path: Path) -> None:
    methods = ["adamw", "loko", "loko-plain-attention"]
    options = ["table3", "--points", "*/ResNet18", "--rounds", "3", "--warmup", "1", "--methods", *methods]
    (point,) = measured(tmp_path, *options)
    assert point["rounds"] == 3
    assert set(point["optimizers"]) == {"floor", *methods}
    assert point["published"] == pytest.approx(15.7, abs=0.1)


def test_the_cost_over_classes_is_kept_with_a_plot(tmp_path: Path) -> None:
    options = ["classes", "--points", "lenet5, 2 *", "lenet5, 10 *", "--rounds", "3", "--warmup", "1", "--seconds", "0"]
    points = measured(tmp_path, *options)
    assert [(point["outputs"], point["rounds"]) for point in points] == [(2, 3), (10, 3)]
    assert [list(point["optimizers"]) for point in points] == [["floor", "adamw", "soap", "filtune"]] * 2
    assert points[0]["optimizers"]["adamw"]["ratio_to_adamw"] == 1.0


def test_the_devices_script_times_steps_on_a_cpu(tmp_path: Path) -> None:
    record = Record(tmp_path / "steps.json", torch.device("cpu"), seconds=60, quick=True)
    found = compare_on_model(lambda: MODELS["lenet5"](3, None, 0), 3, 1, False, record, natural=False)
    assert not found["failed"] | found["skipped"]
    assert {"floor", "adamw", "adamw-online", "filtune", "filtune-top-1"} <= set(found["methods"])
    assert found["methods"]["adamw"]["ratio_to_adamw"] == 1.0
    assert found["methods"]["adamw"]["state_bytes"] >= 8 * found["trained"]
