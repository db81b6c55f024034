"""A run is validated as it is left, however it ends, and each point of a curve stands at the steps taken before it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from filtune.datamodules import DigitsDataModule
from filtune.lightning_modules import BackboneConfig, OnlineModule
from filtune.lightning_modules.callbacks import LogInterval, Validations
from filtune.lightning_modules.callbacks.log_interval import INTERVALS, POINTS, log_interval
from filtune.lightning_modules.seeding import seed_step
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger

from filtune import SGD


class Points(Logger):
    """Keeps what is logged: the steps by the name of the curve."""

    name, version = "points", 0

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[str, list[int]] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        assert step is not None
        for name in metrics:
            self.steps.setdefault(name, []).append(step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Keep none."""


class StopAt(pl.Callback):
    """Asks for the end after a step, as a time that is over does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


ONLINE = {"monitor": "online/loss", "patience": 1, "min_delta": 99.0, "mode": "min"}


def fitted(tmp_path: Path, samples: int, *callbacks: pl.Callback, **options: Any) -> tuple[dict[str, list[int]], int]:
    """Return the steps of each curve, and the steps of the run."""
    points, quiet = Points(), {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", logger=points, num_sanity_val_steps=0, enable_checkpointing=False, default_root_dir=tmp_path,
        callbacks=[Validations(None, "val_check_interval" in options), LogInterval(), *callbacks], **quiet, **options,
    )  # fmt: skip
    data = DigitsDataModule(max_samples=samples, max_val_samples=20)
    trainer.fit(OnlineModule(BackboneConfig(), partial(SGD, lr=0.01)), datamodule=data)
    return points.steps, trainer.global_step


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("callbacks", "options", "steps", "validated"),
    [
        ([], {"max_epochs": 3, "check_val_every_n_epoch": 2}, 18, [12, 18]),
        ([], {"max_epochs": 3, "check_val_every_n_epoch": 2, "max_steps": 16}, 16, [12, 16]),
        ([], {"max_epochs": 1, "max_steps": 4}, 4, [4]),
        ([StopAt(3)], {"max_epochs": 3, "check_val_every_n_epoch": 3}, 3, [3]),
        ([StopAt(8)], {"max_epochs": 3}, 8, [6, 8]),
        ([StopAt(3)], {"max_epochs": 1, "val_check_interval": 2}, 3, [2, 3]),
        ([EarlyStopping(**ONLINE)], {"max_epochs": 9, "check_val_every_n_epoch": 2}, 24, [12, 24]),
        ([EarlyStopping(**ONLINE, check_on_train_epoch_end=True)], {"check_val_every_n_epoch": 4}, 12, [12]),
        ([], {"max_epochs": 2, "limit_val_batches": 0}, 12, []),
    ],
)  # fmt: skip
def test_the_end_is_validated(
    tmp_path: Path, callbacks: list[pl.Callback], options: dict[str, Any], steps: int, validated: list[int]
) -> None:
    found, made = fitted(tmp_path, 6, *callbacks, **options)
    assert made == steps
    assert found.get("val/loss", []) == validated
    assert set(validated) <= set(found["online/loss"])
    assert len(set(found["online/loss"])) == len(found["online/loss"])


@pytest.mark.parametrize("steps", [1, 29, 30, 59, 60, 72, 150, 1499, 1500, 10**6])
def test_short_runs_have_as_many_points_as_there_can_be(steps: int) -> None:
    every = log_interval(steps)
    assert every in INTERVALS
    assert steps // every >= min(steps, POINTS)
    assert log_interval(math.inf) == 50
    assert every == 50 or steps // INTERVALS[INTERVALS.index(every) - 1] < POINTS


def test_numbers_of_a_step_are_those_of_manual_seed() -> None:
    """Bit for bit, and the generator knows its seed, from which other generators are seeded."""
    for seed, step in ((0, 0), (3, 199), (None, 7), (2**40, 10**9)):
        seed_step(seed, step, torch.device("cpu"))
        found = torch.rand(4), torch.initial_seed()
        torch.manual_seed(((seed or 0) * 1_000_003 + step) % 2**63)
        assert torch.equal(found[0], torch.rand(4))
        assert found[1] == torch.initial_seed()
