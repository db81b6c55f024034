"""TensorBoard's page: descriptions of all scalars, curves of several points, and progress without a terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from filtune.lightning_modules import tensorboard
from filtune.lightning_modules.callbacks import ProgressLines, Validations
from filtune.lightning_modules.scores import ProbabilityScores
from filtune.optimizers.likelihoods.base import REGISTRY

from ..optimizers.rules import RULES, Scaled, take_steps


def test_all_scalars_have_a_description() -> None:
    """Of every optimizer with its monitors, of every kind of task, and of the scores of probabilities."""
    names = {"stats/lr", "online/loss", "val/loss", "online/l1", "online/nonfinite_samples", "val/forgetting"}
    for name, rule in RULES.items():
        model = Scaled()
        options = {"nis_window": 5, "head_reset_scale": 2.0} if name == "Filtune" else {}
        optimizer = rule(model.parameters(), **options)
        take_steps(optimizer.attach(model), model, 2)
        names |= {f"stats/{figure}" for figure in optimizer.stats}
    for likelihood in REGISTRY.values():
        names |= {f"{prefix}{metric}" for metric in likelihood.metrics(7) for prefix in ("online/", "val/", "test/")}
    names |= {*ProbabilityScores().compute("online/"), *ProbabilityScores().compute("online/predictive_")}
    first = {*tensorboard.GROUPS.values()}
    lacking = sorted(name for name in names if tensorboard.description(name) in {"", *first})
    assert not lacking
    assert tensorboard.description("val/accuracy_2").endswith("Accuracy on segment 2 of the stream, in percent.")
    assert not tensorboard.description("my/figure")


def trainer_of(train_rows: int, val_rows: int, batch_size: int = 1, **options: Any) -> Any:
    part, validation = SimpleNamespace(rows=range(train_rows)), SimpleNamespace(rows=range(val_rows))
    data = SimpleNamespace(part=part, validation=validation, batch_size=batch_size, val_batch_size=64)
    defaults = {"max_epochs": 1, "max_steps": -1, "limit_train_batches": 1.0, "limit_val_batches": 1.0, "world_size": 1}
    batches = -(-train_rows // batch_size)
    rest = {
        "fast_dev_run": 0,
        "check_val_every_n_epoch": 1,
        "current_epoch": 0,
        "num_training_batches": batches,
        "val_check_batch": batches,
    }
    return SimpleNamespace(datamodule=data, val_check_interval=1.0, **{**defaults, **rest, **options})


def validated(validations: Validations, trainer: Any) -> list[int]:
    """Return after how many batches of a pass there are validations."""
    validations.setup(trainer, None, "fit")  # type: ignore[arg-type]
    found, batches = [], trainer.num_training_batches
    for index in range(batches if trainer.max_steps < 0 else min(batches, trainer.max_steps)):
        trainer.global_step, trainer.is_last_batch = index, index + 1 == batches
        validations.on_train_batch_start(trainer, None, None, index)  # type: ignore[arg-type]
        every = trainer.val_check_batch
        if trainer.is_last_batch if every == float("inf") else every and (index + 1) % every == 0:
            found.append(index + 1)
    return found


@pytest.mark.parametrize(
    ("count", "trainer", "steps"),
    [
        (None, trainer_of(1500, 297), [300, 600, 900, 1200, 1500]),
        (None, trainer_of(1000, 872), [500, 1000]),  # two score at most twice the stream
        (None, trainer_of(300, 10_000), [300]),
        (None, trainer_of(1500, 297, max_epochs=3), [1500]),  # one a pass
        (None, trainer_of(20, 10, limit_val_batches=0, val_check_batch=0), []),
        (None, trainer_of(20, 0, val_check_batch=0), []),
        (None, trainer_of(300, 10_000, limit_val_batches=2), [75, 150, 225, 300]),  # of 64 samples
        (None, trainer_of(300, 10_000, limit_val_batches=0.01), [60, 120, 180, 240, 300]),
        (4, trainer_of(61, 40), [16, 31, 46, 61]),
        (3, trainer_of(100, 40, batch_size=16), [3, 5, 7]),
        (6, trainer_of(10, 40), [2, 4, 5, 7, 9, 10]),
        (4, trainer_of(61, 40, batch_size=32), [1, 2]),
        (3, trainer_of(60, 40, max_steps=30), [10, 20, 30]),
        (1, trainer_of(60, 40, max_steps=30), [30]),
        (1, trainer_of(60, 40), [60]),
    ],
)
def test_validations_are_spread_over_the_stream(count: int | None, trainer: Any, steps: list[int]) -> None:
    assert validated(Validations(count, is_chosen=False), trainer) == steps
    assert (trainer.val_check_interval == 1.0) == (len(steps) < 2 or count == 1)  # EarlyStopping asks


def test_an_interval_of_the_users_has_a_validation_at_the_end_as_well() -> None:
    assert validated(Validations(None, is_chosen=True), trainer_of(10, 40, val_check_batch=4)) == [4, 8, 10]


@pytest.mark.parametrize(("count", "is_chosen", "message"), [(0, False, "at least 1"), (2, True, "leave one of them")])
def test_validations_that_cannot_be(count: int, is_chosen: bool, message: str) -> None:
    with pytest.raises(ValueError, match=f"^run.validations: .*{message}"):
        Validations(count, is_chosen)


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 30.0, 60.0, 90.0, 120.0])
    monkeypatch.setattr("filtune.lightning_modules.callbacks.training.time.monotonic", lambda: next(clock))
    lines = ProgressLines()
    trainer: Any = SimpleNamespace(global_step=0, estimated_stepping_batches=10, training=False)
    lines.on_train_start(trainer, None)  # type: ignore[arg-type]
    for step in range(1, 5):
        trainer.global_step = step
        lines.on_train_batch_end(trainer, None)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == ["step 2 of 10, 4 min left", "step 4 of 10, 3 min left"]


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_long_validation_prints_lines_as_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    clock = iter([1000.0, 1040.0, 1080.0, 1100.0, 1160.0])
    monkeypatch.setattr("filtune.lightning_modules.callbacks.training.time.monotonic", lambda: next(clock))
    lines: Any = ProgressLines()
    lines._last = 1000.0 if command == "fit" else 0.0
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=command), num_val_batches=[12])
    lines.on_validation_start(trainer, None)
    for index in range(4):
        lines.on_validation_batch_end(trainer, None, None, None, index)
    said = capsys.readouterr().out.splitlines()
    assert said == ["validation: batch 2 of 12, 7 min left", "validation: batch 4 of 12, 5 min left"]
