"""The cost of natural gradients: steps are sorted into lazy ones and refreshes, and all is kept with a plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import natural_cost
from benchmarks.natural_cost import SKIP, split_refreshes


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
    assert (tmp_path / "cost.png").stat().st_size > 10_000


def test_refreshes_are_told_from_lazy_steps() -> None:
    """A rule of period 8 refreshes at step 8, the first after the warm-up; one of period 10 at steps 10 and 20."""
    ratios = [float(k) for k in range(SKIP, 24)]
    assert split_refreshes(ratios, 8)[0] == [8, 16]
    assert split_refreshes(ratios, 10)[0] == [10, 20]
    assert split_refreshes(ratios, 1) == (ratios, [])
    assert sorted(split_refreshes(ratios, 8)[0] + split_refreshes(ratios, 8)[1]) == ratios


def test_the_reference_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        natural_cost.main(["--optimizers", "ring"])
    assert "adamw is the reference" in capsys.readouterr().err
