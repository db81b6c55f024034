"""Sweeps: what is searched, and what is best."""

import pytest
import yaml
from filtune.experiments import sweep
from filtune.experiments.records import lower_is_better
from filtune.experiments.search import Bounds, SearchSpace, rank, read_grid, read_ranges

from tests.cli.harness import forked_workers


def test_a_grid_is_read_as_people_write_it():
    grid = read_grid(["optimizer.lr=1e-4,1e-3", "optimizer.betas=[0.9]", "model.backbone.adapter=lora,dora"])
    assert grid["optimizer.lr"] == [1e-4, 1e-3]
    assert grid["model.backbone.adapter"] == ["lora", "dora"]
    with pytest.raises(ValueError, match="--grid optimizer.lr: is to be KEY=VALUE,VALUE"):
        read_grid(["optimizer.lr"])


def test_a_range_is_read():
    found = read_ranges(["optimizer.lr=1e-4,1e-1,log", "data.batch_size=1,64"], "tpe", {})
    assert found == {"optimizer.lr": Bounds(1e-4, 1e-1, True), "data.batch_size": Bounds(1, 64, False)}


@pytest.mark.parametrize(
    "pair", ["optimizer.lr", "x", "optimizer.lr=", "optimizer.lr=1", "optimizer.lr=2,1", "optimizer.lr=0,1,log",
             "optimizer.lr=1,2,lin", "optimizer.lr=a,b", "optimizer.lr=true,2", "run.root=1,2", "optimizer.lr=1,nan",
     "optimizer.lr=1,.inf"],
)  # fmt: skip
def test_an_impossible_range_is_refused(pair):
    with pytest.raises(ValueError, match="^--range [^\n]*is to be"):
        read_ranges([pair], "random", {})


def test_a_range_is_of_no_grid():
    with pytest.raises(ValueError, match="a grid needs values; say --sampler random or tpe"):
        read_ranges(["optimizer.lr=1,2"], "grid", {})
    with pytest.raises(ValueError, match="there twice"):
        read_ranges(["optimizer.lr=1,2"], "tpe", {"optimizer.lr": [1]})


@pytest.mark.parametrize("values", [[1, 2.5, "a"], [True, 1], [None, 0], [[0.9, 0.99], [0.8, 0.9]], [1, 1.0]])
def test_what_a_storage_holds_of_a_grid_stands_for_its_values(values):
    space = SearchSpace({"optimizer.x": values}, {})
    for stored, value in zip(space.choices["optimizer.x"], values, strict=True):
        (found,) = space.decode({"optimizer.x": stored}).values()
        assert (type(found), found) == (type(value), value)


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
        ([*PARTS, "--sampler", "bayes"], "--sampler bayes: no such sampler; there are grid, random, tpe"),
        ([*PARTS, "--sampler", "tpee"], "--sampler tpee: no such sampler; did you mean tpe?"),
        ([*PARTS, "--pruner", "medina"], "--pruner medina: no such pruner; did you mean median?"),
        ([*PARTS, "--sampler", "tpe"], "--sampler tpe: needs --trials"),
        ([*PARTS, "--trials", "3"], "a grid is tried at all of its points"),
        ([*PARTS, "--sampler", "tpe", "--trials", "3"], "there is nothing to search"),
        ([*PARTS, "--sampler", "tpe", "--trials", "0", "--grid", "optimizer.lr=1"], "--trials 0: must be at least 1"),
        (
            [*PARTS, "--sampler", "tpe", "--trials", "3", "--range", "optimizer.lrr=1,2"],
            "--range optimizer.lrr: no such",
        ),
        ([*PARTS, "--pruner", "median", "--metric", "wall_seconds"], "is not known before the end of a run"),
        ([*PARTS, "--launcher", "slrum"], "--launcher slrum: no such launcher; did you mean slurm?"),
        ([*PARTS, "--slurm", "time=3"], "--slurm time=3: needs --launcher slurm"),
    ],
)
def test_mistakes_are_told(line, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        sweep.main([*line, "--root", str(tmp_path)])
