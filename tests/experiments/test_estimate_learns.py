"""The time of a run has its validations in it, and is learned from finished runs."""

from __future__ import annotations

from typing import Any

import pytest
from filtune.experiments.composition import compose
from filtune.experiments.estimate import START, Estimator, RunSize, run_size
from filtune.experiments.fields import record_fault
from filtune.experiments.keys import complete


def config(optimizer: str = "adamw", task: str = "sst2", **options: Any) -> dict[str, Any]:
    return compose(["trainer/auto", f"task/{task}", "backbone/minilm", optimizer], options)


def finished(made: dict[str, Any], steps: int, val_rows: int, seconds: tuple[float, float, float], **more: Any) -> Any:
    """A record as a run leaves it; ``seconds`` of its process, of the run, and of a step."""
    process, wall, step = seconds
    times = {"wall_seconds": wall, "mean_seconds_per_step": step, "process_seconds": process}
    known = {"format": 1, "key": "v2-0", "status": "finished", "optimizer": "o", "seed": 0, "metrics": {}, "curves": {}}
    rows = {"task": "sst2", "backbone": "minilm", "steps": steps, "val_rows": val_rows, "train_rows": steps}
    return {**known, **rows, "config": complete(made), "times": times, **more}


@pytest.mark.parametrize(
    ("options", "validations"),
    [
        ({}, 1),
        ({"trainer.max_epochs": 3}, 3),
        ({"trainer.max_epochs": 3, "trainer.val_check_interval": 0.25}, 12),
        ({"trainer.max_epochs": 2, "trainer.val_check_interval": 40}, 6),  # 40, 80 and 100 of each pass
        ({"trainer.max_epochs": 8, "trainer.check_val_every_n_epoch": 8}, 1),
        ({"trainer.max_steps": 60, "trainer.max_epochs": -1}, 1),
        (
            {
                "trainer.max_steps": 60,
                "trainer.max_epochs": -1,
                "trainer.val_check_interval": 25,
                "trainer.check_val_every_n_epoch": None,
            },
            3,  # 25, 50 and 60
        ),
    ],
)
def test_a_run_is_as_long_as_its_steps_and_its_validations(options: dict[str, Any], validations: int) -> None:
    small = config(**{"data.max_samples": 100, "data.max_val_samples": 7, **options})
    found = run_size(small, "sst2")
    assert found is not None
    assert found.validated == 7 * validations


def test_the_validation_of_a_task_is_all_of_it_unless_limited() -> None:
    assert run_size(config(**{"data.max_samples": 10}), "sst2") == RunSize(10, 10, 872)


def test_what_a_validated_sample_takes_is_measured_apart_from_the_steps() -> None:
    """100 steps of 0.1 s and 50 validated samples of 0.2 s; then three passes, and the whole validation set."""
    made = config(**{"data.max_samples": 100, "data.max_val_samples": 50})
    estimator = Estimator([finished(made, 100, 50, (26.0, 20.0, 0.1))])
    longer = config(**{"data.max_samples": 200, "trainer.max_epochs": 3})
    assert estimator.seconds(longer, "sst2", "minilm") == pytest.approx(6.0 + 600 * 0.1 + 3 * 872 * 0.2)


@pytest.mark.parametrize("backbone", ["minilm", "efficientnet_lite0"])
def test_runs_of_another_optimizer_or_model_correct_the_guess(backbone: str) -> None:
    """Steps and validated samples took ten and three times as long as guessed: so will those of another optimizer."""
    guess, learned = Estimator(), Estimator()
    guess.speed = learned.speed = 1.0
    made = config(**{"data.max_samples": 100, "data.max_val_samples": 50})
    gflops = {"minilm": 0.7, "efficientnet_lite0": 0.26}[backbone]
    step, sample = 10 * 3 * gflops, 3 * gflops
    wall = 100 * step + 50 * sample
    learned.learn(finished(made, 100, 50, (START + wall, wall, step), backbone=backbone))
    new = config("loko", **{"data.max_samples": 1000})
    size = run_size(new, "sst2")
    guessed, measured = (each.seconds(new, "sst2", "minilm") for each in (guess, learned))
    assert size is not None
    assert guessed is not None
    assert measured is not None
    validation = size.validated * 0.7
    assert measured - START == pytest.approx(10 * (guessed - START - validation) + 3 * validation)


def test_a_task_of_the_users_own_is_estimated_once_it_has_run() -> None:
    """Its stream has as many rows as the one that was run without a limit."""
    made = config()
    first = finished(made, 80, 20, (12.0, 10.0, 0.1), task="own")
    assert Estimator().seconds(made, "own", "minilm") is None
    twice = config(**{"trainer.max_epochs": 2})
    assert Estimator([first]).seconds(twice, "own", "minilm") == pytest.approx(2.0 + 160 * 0.1 + 40 * 0.1)


def test_a_measurement_takes_as_long_as_one_with_the_same_options() -> None:
    options = {"measurement.class_path": "filtune.experiments.measurements.TheoremBounds", "measurement.width": 64}
    made = compose(["trainer/auto", "task/digits"], {"data.max_samples": 24, **options})
    wider = compose([], made, {"measurement.width": 256})
    record = finished(made, 0, 0, (9.0, 5.0, 0.0), task="digits", backbone="")
    estimator = Estimator([record])
    assert estimator.seconds(made, "digits", "") == 9.0
    assert estimator.seconds(wider, "digits", "") is None


def test_a_run_that_diverged_or_was_resumed_does_not_shorten_the_others() -> None:
    made = config(**{"data.max_samples": 100, "data.max_val_samples": 50})
    diverged = finished(made, 3, 50, (8.0, 0.3, 0.1), status="diverged")
    resumed = finished(made, 100, 50, (1.0, 20.0, 0.1))  # its last process lasted a second
    estimator = Estimator([diverged, resumed])
    start = 8.0 - 0.3
    assert estimator.seconds(made, "sst2", "minilm") == pytest.approx(start + 100 * 0.1 + 50 * 0.2)


def test_the_seconds_of_a_process_may_be_in_a_record_and_are_checked() -> None:
    record = finished(config(), 1, 1, (2.0, 1.0, 0.1))
    assert record_fault(record) == ""
    record["times"]["process_seconds"] = "long"
    assert record_fault(record) == "times.process_seconds is 'long', not a finite number"
