"""Sizes of runs, and how long they take."""

import pytest
from filtune.experiments.composition import CONFIGS, compose, metadata
from filtune.experiments.estimate import START, Estimator, RunSize, format_duration, run_size


def config(**options):
    return compose(["trainer/auto", "task/sst2", "backbone/minilm", "adamw"], options)


def record(seconds: float, steps: int, **options):
    return {
        "config": config(**options),
        "task": "sst2",
        "backbone": "minilm",
        "steps": steps,
        "status": "finished",
        "times": {"wall_seconds": seconds},
    }


def test_metadata_of_a_part_is_in_its_own_file_and_is_no_option():
    assert metadata("task", "sst2")["train_samples"] == 67349
    assert metadata("backbone", "minilm")["gflops"] == 0.7
    assert metadata("task", "own") == {}
    assert "metadata" not in config()
    assert all(entry["licence"] for path in (CONFIGS / "task").glob("*.yaml") if (entry := metadata("task", path.stem)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, RunSize(67349, 67349, 872)),
        ({"data.batch_size": 64, "trainer.max_epochs": 2}, RunSize(67349, 2 * 1053, 2 * 872)),
        ({"data.max_samples": 1000, "data.batch_size": 3}, RunSize(1000, 334, 872)),
        ({"data.max_samples": 1000, "trainer.max_steps": 7}, RunSize(1000, 7, 872)),
        ({"trainer.max_epochs": -1, "trainer.max_steps": 7}, RunSize(67349, 7, 872)),
        ({"trainer.max_epochs": -1}, None),
    ],
)
def test_steps_are_batches_of_all_epochs(options, expected):
    assert run_size(config(**options), "sst2") == expected


def test_a_task_of_ones_own_has_no_size_unless_it_is_said():
    assert run_size(config(), "own") is None
    assert run_size(config(**{"data.max_samples": 10}), "own") == RunSize(10, 10)


def test_like_runs_say_how_long_it_takes():
    estimator = Estimator([record(100.0, 1000), record(300.0, 1000), record(200.0, 1000)])
    assert estimator.seconds(config(**{"data.max_samples": 500}), "sst2", "minilm") == START + 500 * 0.2
    # another task with the same model counts less than the same task, and more than nothing
    assert estimator.seconds(config(**{"data.max_samples": 500}), "cola", "minilm") == START + 500 * 0.2


def test_without_like_runs_it_is_a_guess_by_the_size():
    estimator = Estimator()
    estimator.speed = 100.0
    small = estimator.seconds(config(**{"data.max_samples": 1000}), "sst2", "minilm")
    large = estimator.seconds(config(**{"data.max_samples": 1000}), "sst2", "roberta_base")
    assert START < small < large
    assert estimator.seconds(config(), "own", "own") is None


@pytest.mark.parametrize(
    ("optimizer", "backbone", "options", "rows"),
    [
        ("filtune", "efficientnet_lite0", {}, 2),  # the most probable class, and the label where it is another
        ("filtune", "efficientnet_lite0", {"optimizer.top_k": 3}, 4),
        ("filtune", "efficientnet_lite0", {"optimizer.top_k": 0}, 9),
        ("filtune", "lenet5", {}, 9),
        ("filtune", "lenet5", {"optimizer.top_k": -1}, 9),  # its run fails, and no other
        ("filtune", "lenet5", {"optimizer.top_k": "all"}, 9),
        ("loko", "efficientnet_lite0", {}, 9),
    ],
)
def test_a_filter_is_estimated_by_the_rows_that_it_forms(optimizer, backbone, options, rows):
    parts = ["trainer/auto", "task/cifar10", f"backbone/{backbone}", optimizer]
    estimator = Estimator()
    estimator.speed = 100.0
    size = {"data.max_samples": 1000, "data.max_val_samples": 1}
    gflops = metadata("backbone", backbone)["gflops"]
    step, sample = max(3 * gflops / 100.0, 0.003), max(gflops / 100.0, 0.0002)
    found = estimator.seconds(compose(parts, {**size, **options}), "cifar10", backbone)
    assert found == pytest.approx(START + 1000 * step * (1.0 + 0.2 * (rows - 1)) + sample)


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "unknown"), (30, "30 s"), (600, "10 min"), (7200, "2.0 h"), (200000, "2.3 days")]
)
def test_times_are_said_as_people_say_them(seconds, said):
    assert format_duration(seconds) == said
