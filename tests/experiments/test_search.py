"""Sweeps: points, rounds of successive halving, and what is best."""

import math

import pytest
import yaml
from filtune.experiments import sweep
from filtune.experiments.composition import compose
from filtune.experiments.records import lower_is_better
from filtune.experiments.search import Rung, config_at, rank, read_grid, rungs
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.harness import forked_workers


@given(st.integers(1, 200), st.integers(2, 6), st.integers(1, 10**6))
def test_halving_keeps_one_of_so_many_and_gives_it_as_many_times_the_samples(points, rate, samples):
    rounds = rungs(points, samples, rate)
    left = points
    for rung in rounds[:-1]:
        assert rung.kept == math.ceil(left / rate)
        left = rung.kept
    assert left == 1
    assert rounds[-1] == Rung(None, 1)
    lengths = [rung.samples for rung in rounds[:-1]]
    count = len(lengths)
    assert lengths == [max(1, samples // rate ** (count - k)) for k in range(count)]


def test_without_halving_there_is_one_round():
    assert rungs(7, None, None) == [Rung(None, 1)]


@pytest.mark.parametrize(("rate", "samples", "said"), [(1, 100, "--halving 1: must be"), (3, None, "max_samples")])
def test_impossible_halving_is_refused(rate, samples, said):
    with pytest.raises(ValueError, match=said):
        rungs(9, samples, rate)


def test_a_grid_is_read_as_people_write_it():
    grid = read_grid(["optimizer.lr=1e-4,1e-3", "optimizer.betas=[0.9]", "model.backbone.adapter=lora,dora"])
    assert grid["optimizer.lr"] == [1e-4, 1e-3]
    assert grid["model.backbone.adapter"] == ["lora", "dora"]
    with pytest.raises(ValueError, match="--grid optimizer.lr: is to be KEY=VALUE,VALUE"):
        read_grid(["optimizer.lr"])


def test_a_point_changes_nothing_but_itself():
    config = compose(["task/digits", "adamw"])
    before = yaml.safe_dump(config)
    assert config_at(config, {"optimizer.lr": 5.0}, 10)["data"]["init_args"]["max_samples"] == 10
    assert yaml.safe_dump(config) == before


def test_the_best_is_the_highest_or_lowest_and_what_diverged_comes_last():
    assert rank([80.0, 82.0], "online_accuracy") < rank([70.0], "online_accuracy") < rank([], "online_accuracy")
    assert rank([0.1], "online_loss") < rank([0.3], "online_loss") < rank([], "online_loss")
    assert lower_is_better("val_loss")
    assert not lower_is_better("val_matthews")


def test_a_sweep_finds_the_better_rate_and_keeps_it(tmp_path, capsys):
    line = ["--config", "task/digits", "--config", "backbone/lenet5", "--config", "adamw_1e-3"]
    line += ["--grid", "optimizer.lr=1e-9,3e-3", "--data.max_samples", "120", "--data.max_val_samples=20"]
    line += ["--root", str(tmp_path / "root"), "--jobs", "2", "--threads", "1", "--metric", "online_loss"]
    with forked_workers():
        assert sweep.main(line) == 0
    assert "best: lr=0.003" in capsys.readouterr().out
    best = yaml.safe_load((tmp_path / "root" / "sweep.yaml").read_text())
    assert best["optimizer"]["init_args"]["lr"] == 3e-3
    assert best["data"]["init_args"]["max_samples"] == 120


PARTS = ["--config", "task/digits", "--config", "backbone/lenet5", "--config", "optimizer/adamw"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--config", "task/digits"], "nothing says what model is"),
        (["--config", "task/digits", "--bogus", "1"], "--bogus: not an option"),
        (["--config", "task/digits", "--seeds", "0"], "--seeds 0: must be at least 1"),
        ([*PARTS, "--grid", "optimizer.lrr=1,2"], "--grid optimizer.lrr: no such option; did you mean lr?"),
        ([*PARTS, "--grid", "data.max_sample=1"], "--grid data.max_sample: no such option; did you mean max_samples"),
        (["--config", "task/digits", "--data.max_samples"], "--data.max_samples: is to have a value"),
    ],
)
def test_mistakes_are_told(line, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        sweep.main([*line, "--root", str(tmp_path)])
