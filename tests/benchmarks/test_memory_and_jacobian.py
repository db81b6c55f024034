"""The tables of memory and of kinds of layers keep what they measured, with a plot of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import cost
from benchmarks.models import LAYERS, layered
from benchmarks.tables import TABLES


def test_memory_is_that_of_the_state_and_of_a_step_beside_it(tmp_path: Path) -> None:
    methods = ["adamw", "loko", "filtune", "filtune-bfloat16"]
    options = ["--points", "n 1e4, 2 *", "--methods", *methods, "--warmup", "1", "--threads", "1"]
    cost.main(["memory", *options, "--output", str(tmp_path / "memory")])
    (point,) = json.loads((tmp_path / "memory.json").read_text())["points"]
    figures, n = point["optimizers"], point["trainable_parameters"]
    adamw = figures["adamw"]
    for name in methods:
        own = figures[name]
        ratio = (own["state_bytes"] + own["peak_step_bytes"]) / (adamw["state_bytes"] + adamw["peak_step_bytes"])
        assert own["memory_ratio_to_adamw"] == pytest.approx(ratio)
    assert "memory_ratio_to_adamw" not in figures["floor"]
    saved = figures["filtune"]["state_bytes"] - figures["filtune-bfloat16"]["state_bytes"]
    assert saved == 2 * 60 * n  # V has 40 + 20 rows
    assert (tmp_path / "memory.png").stat().st_size > 1000


def test_every_kind_of_layer_is_measured_in_every_batch_beside_a_loop() -> None:
    points = list(TABLES["jacobian"].points())
    assert {(point.panel, point.batch) for point in points} == {
        (kind, batch) for kind in LAYERS for batch in (1, 4, 16)
    }
    assert all(point.methods == ["adamw", "loko", "loko-loop"] for point in points)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_network_of_a_kind_of_layers_trains_them_all(kind: str) -> None:
    case = layered(kind)
    assert case(case.sample(torch.Generator(), 2)).shape == (2, 4)
    assert sum(type(module) is type(LAYERS[kind]()) for module in case.modules()) >= 4


def test_the_size_is_the_number_of_trained_parameters() -> None:
    point = next(TABLES["sizes"].points())
    with torch.device("meta"):
        model = point.build()
    assert point.x == sum(p.numel() for p in model.parameters() if p.requires_grad)
