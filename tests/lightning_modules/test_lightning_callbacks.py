"""Each callback that Lightning ships is honoured or refused, as docs/lightning.md says."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch import callbacks as known
from lightning.pytorch import loggers
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from filtune import SGD, LoKO
from tests.lightning_modules.surface import SAMPLES, Probe, rows, run

ROWS = rows()
Seen = Callable[[pl.Trainer, Probe], object]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def lines(folder: Path) -> list[dict[str, str]]:
    """What a CSVLogger has written below a folder."""
    (file,) = folder.rglob("metrics.csv")
    return list(csv.DictReader(file.open()))


def csv_logger() -> loggers.CSVLogger:
    return loggers.CSVLogger("csv")


def has_column(name: str) -> Seen:
    return lambda t, p: any(name in column for line in lines(Path("csv")) for column in line)


CALLBACKS: dict[str, tuple[Callable[[], pl.Callback], dict[str, Any], Seen]] = {
    "Callback": (pl.Callback, {}, lambda t, p: p.losses[0] > 0),
    "Checkpoint": (known.Checkpoint, {}, lambda t, p: t.global_step == SAMPLES),
    "DeviceStatsMonitor": (
        lambda: known.DeviceStatsMonitor(cpu_stats=True),
        {"logger": csv_logger, "log_every_n_steps": 1},
        has_column("DeviceStatsMonitor"),
    ),
    "EarlyStopping": (
        lambda: known.EarlyStopping("online/loss", patience=1, min_delta=100.0),
        {"val_check_interval": 2},
        lambda t, p: t.global_step == 4,
    ),
    "LambdaCallback": (
        lambda: known.LambdaCallback(on_train_batch_end=lambda t, m, out, *_: setattr(t, "last", out["loss"])),
        {},
        lambda t, p: float(t.last) == p.losses[-1],
    ),
    "LearningRateMonitor": (
        known.LearningRateMonitor,
        {"logger": csv_logger, "log_every_n_steps": 1},
        has_column("lr-SGD"),
    ),
    "ModelCheckpoint": (
        lambda: known.ModelCheckpoint("best", monitor="online/loss", every_n_train_steps=2, save_top_k=1),
        {},
        lambda t, p: Path(t.checkpoint_callback.best_model_path).is_file(),
    ),
    "ModelSummary": (known.ModelSummary, {}, lambda t, p: t.global_step == SAMPLES),
    "RichModelSummary": (known.RichModelSummary, {}, lambda t, p: t.global_step == SAMPLES),
    "RichProgressBar": (
        known.RichProgressBar,
        {"enable_progress_bar": True, "log_every_n_steps": 1},
        lambda t, p: "online/accuracy" in t.progress_bar_metrics,
    ),
    "TQDMProgressBar": (
        known.TQDMProgressBar,
        {"enable_progress_bar": True, "log_every_n_steps": 1},
        lambda t, p: "online/loss" in t.progress_bar_metrics,
    ),
    "ProgressBar": (
        known.ProgressBar,
        {"enable_progress_bar": True, "log_every_n_steps": 1},
        lambda t, p: "online/loss" in t.progress_bar_callback.get_metrics(t, t.model),
    ),
    "ThroughputMonitor": (
        lambda: known.ThroughputMonitor(lambda batch: len(batch["label"])),
        {"logger": csv_logger, "log_every_n_steps": 1},
        has_column("train/samples"),
    ),
    "Timer": (lambda: known.Timer({"seconds": 0}), {}, lambda t, p: t.global_step == 0),
}
"""Callbacks that are honoured, with options of the trainer, and what is seen."""

REFUSED_CALLBACKS: dict[str, Callable[[], pl.Callback]] = {
    "BackboneFinetuning": known.BackboneFinetuning,
    "BaseFinetuning": known.BaseFinetuning,
    "BatchSizeFinder": known.BatchSizeFinder,
    "EMAWeightAveraging": lambda: known.EMAWeightAveraging(),
    "GradientAccumulationScheduler": lambda: known.GradientAccumulationScheduler({1: 2}),
    "LearningRateFinder": known.LearningRateFinder,
    "ModelPruning": lambda: known.ModelPruning("l1_unstructured", amount=0.5),
    "OnExceptionCheckpoint": lambda: known.OnExceptionCheckpoint("."),
    "SpikeDetection": known.SpikeDetection,
    "StochasticWeightAveraging": lambda: known.StochasticWeightAveraging(0.1),
    "WeightAveraging": lambda: known.WeightAveraging(),
}


def test_every_callback_is_tried() -> None:
    tried = dict.fromkeys(CALLBACKS, "honoured") | dict.fromkeys(REFUSED_CALLBACKS, "refused")
    assert tried | {"BasePredictionWriter": "honoured"} == ROWS["Callbacks"]  # the writer in test_own_script.py


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_that_is_honoured_has_its_effect(name: str, tmp_path: Path) -> None:
    build, options, seen = CALLBACKS[name]
    built = {key: value() if callable(value) else value for key, value in options.items()}
    assert seen(*run(tmp_path, callbacks=[build()], **built))


@pytest.mark.parametrize("name", REFUSED_CALLBACKS)
def test_a_callback_that_is_refused_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.callbacks: {name}: [^\n]*$"):
        run(tmp_path, callbacks=[REFUSED_CALLBACKS[name]()])


class OwnFinetuning(known.BaseFinetuning):
    """A class derived from one that is refused."""


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (OwnFinetuning, "OwnFinetuning: the optimizer's state"),
        (lambda: known.ModelCheckpoint(save_on_exception=True), "ModelCheckpoint: save_on_exception: an error may"),
        (
            lambda: known.EarlyStopping("online/los"),
            "EarlyStopping: monitor: there is no metric 'online/los'; there are lr",
        ),
        (lambda: known.EarlyStopping("stats/grad_nrm"), "there is no metric 'stats/grad_nrm'; .* stats/grad_norm"),
        (lambda: known.ModelCheckpoint(monitor="val/acc"), "ModelCheckpoint: monitor: .* val/accuracy"),
    ],
)
def test_what_a_callback_cannot_do_here_is_named(build: Callable, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.callbacks: [^\n]*{said}"):
        run(tmp_path, probed=False, callbacks=[build()])


def test_a_filter_has_no_learning_rate_to_monitor(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LearningRateMonitor: this optimizer has no learning rate"):
        run(tmp_path, optimizer=LoKO, callbacks=[known.LearningRateMonitor()], logger=csv_logger())


def test_metrics_are_current_where_a_callback_watches_them(tmp_path: Path) -> None:
    """Between two points of the log, too, but only then, for they cost time."""
    watched = run(tmp_path, callbacks=[known.EarlyStopping("stats/grad_norm")])[1].metrics
    assert all({"online/loss", "stats/grad_norm", "lr"} <= names for names in watched)
    assert not any(run(tmp_path)[1].metrics)


@pytest.mark.parametrize("optimizer", [SGD, LoKO])
def test_the_loss_of_the_outputs_is_that_of_the_prediction(optimizer: type, tmp_path: Path) -> None:
    trainer, probe = run(tmp_path, optimizer=optimizer)
    online = trainer.model.online.compute()["online/loss"]
    assert sum(probe.losses) / len(probe.losses) == pytest.approx(float(online), rel=1e-5)


def test_lightning_refuses_loggers_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="no logger"):
        run(tmp_path, callbacks=[known.LearningRateMonitor()])
