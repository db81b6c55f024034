"""Options of the trainer and callbacks of Lightning that would be ignored here, each refused in one line.

docs/lightning.md has a row for everything that Lightning offers; tests/lightning_modules/test_lightning_surface.py
compares it with the installed version, and tries each row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.plugins import DoublePrecision, MixedPrecision, Precision
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from .monitoring import check_precision, check_strategy

AVERAGING = "it averages weights that the optimizer goes on with; take --model.weight_averaging"
BATCH = "a step is one call of the optimizer with its batch; take a larger --data.batch_size"
TRAINED = "the optimizer's state belongs to the parameters it began with; take --model.backbone.adapter"

BROKEN_OFF = (
    "an error may fall within a step, and what is saved then cannot be resumed; the run's own checkpoint can, by "
    "--ckpt_path last"
)

REFUSED_CALLBACKS = {
    "BackboneFinetuning": TRAINED,
    "BaseFinetuning": TRAINED,
    "BatchSizeFinder": "the batch size is part of the method, not of the machine; set --data.batch_size",
    "GradientAccumulationScheduler": BATCH,
    "LearningRateFinder": "it trains on the stream before the run does; take filtune sweep over --optimizer.lr",
    "OnExceptionCheckpoint": BROKEN_OFF,
    "ModelPruning": "it sets weights to zero behind the optimizer's back; prune the exported model",
    "SpikeDetection": "the loss of one sample has spikes of its own; divergence is watched by --model.on_divergence",
    "StochasticWeightAveraging": AVERAGING,
    "WeightAveraging": AVERAGING,
    "EMAWeightAveraging": AVERAGING,
}
"""Callbacks of Lightning, and classes derived from them, that do not work with an optimizer driven by a closure."""


def check_trainer(trainer: pl.Trainer, training: bool) -> None:
    """Refuse what the trainer was given and this module would ignore.

    Args:
        trainer: The trainer, before anything runs.
        training: Whether it is to train; otherwise what concerns training alone is not looked at.

    Raises:
        ValueError: Naming the first such option or callback, and the remedy.
    """
    check_precision(trainer.precision)
    check_strategy(trainer)
    check_precision_plugin(type(trainer.precision_plugin))
    if not training:
        return
    for option, value, is_refused, reason in _options(trainer):
        if is_refused:
            raise ValueError(f"trainer.{option}: {value}: {reason}")
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    check_callback_classes(map(type, callbacks))
    if any(isinstance(callback, ModelCheckpoint) and callback.save_on_exception for callback in callbacks):
        raise ValueError(f"trainer.callbacks: ModelCheckpoint: save_on_exception: {BROKEN_OFF}")


def _options(trainer: pl.Trainer) -> Iterator[tuple[str, object, bool, str]]:
    """Yield (option, value, whether it is refused, reason)."""
    clip, batches = trainer.gradient_clip_val, trainer.accumulate_grad_batches
    yield "accumulate_grad_batches", batches, batches != 1, BATCH
    yield (
        "gradient_clip_val",
        clip,
        bool(clip),
        "gradient and update are one step of the optimizer; lower --optimizer.lr, or --optimizer.p0 of a filter",
    )
    yield (
        "overfit_batches",
        trainer.overfit_batches,
        bool(trainer.overfit_batches),
        "it validates on training rows; take --data.max_samples, the same rows in every epoch",
    )
    every = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    yield (
        "reload_dataloaders_every_n_epochs",
        every,
        bool(every),
        "a new loader would begin the stream's order anew; remove it, each epoch has an order of its own",
    )
    synced = trainer._accelerator_connector._layer_sync is not None  # Lightning has no public way to read it
    yield "sync_batchnorm", True, synced, "batch statistics are frozen, there are none to synchronise; set it to false"
    yield (
        "limit_train_batches",
        trainer.limit_train_batches,
        not trainer.limit_train_batches,
        "no sample is left to train on; take filtune validate to score a checkpoint",
    )
    yield "max_epochs", trainer.max_epochs, trainer.max_epochs == 0, "no sample is left to train on"
    yield "max_steps", trainer.max_steps, trainer.max_steps == 0, "no sample is left to train on"
    least, most = trainer.min_epochs or 0, trainer.max_epochs
    contradict = most is not None and -1 < most < least and not trainer.fast_dev_run  # type: ignore[attr-defined]
    yield "min_epochs", least, contradict, f"is more than trainer.max_epochs, {most}"
    every, steps = trainer.check_val_every_n_epoch, trainer.log_every_n_steps  # type: ignore[attr-defined]
    yield "check_val_every_n_epoch", every, every is not None and every < 1, "must be at least 1, or null"
    yield "log_every_n_steps", steps, steps < 0, "must be at least 1, or 0 to log at the end of an epoch alone"
    interval = getattr(trainer, "val_check_interval", None)  # there is none where it is a time
    too_short = isinstance(interval, int | float) and interval <= 0
    yield "val_check_interval", interval, too_short, "must be at least 1 batch, a share of an epoch, or a time"
    registry = trainer._model_registry  # Lightning has no public way to read it
    yield "model_registry", registry, registry is not None, "checkpoints are not uploaded; remove it"
    alone = trainer.num_nodes > 1 and _has_no_launcher(trainer)
    yield (
        "num_nodes",
        trainer.num_nodes,
        alone,
        "the other nodes cannot be found; start with torchrun or srun, or set MASTER_ADDR and NODE_RANK on each",
    )


def check_precision_plugin(plugin: type) -> None:
    """Refuse a precision that changes the model's layers.

    Raises:
        ValueError: Naming it.
    """
    if plugin not in (Precision, DoublePrecision, MixedPrecision):
        raise ValueError(
            f"trainer.plugins: {plugin.__name__} changes the layers that are trained; remove it (of the frozen weights "
            "--model.backbone.frozen 4bit or bfloat16 does so)"
        )


def _has_no_launcher(trainer: pl.Trainer) -> bool:
    """Return whether nothing says where the other nodes are."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return type(environment) is LightningEnvironment and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys()


def check_callback_classes(callbacks: Iterable[type]) -> None:
    """Refuse callbacks that do not work with an optimizer driven by a closure.

    Raises:
        ValueError: Naming the first, and the remedy.
    """
    for callback in callbacks:
        for name, reason in REFUSED_CALLBACKS.items():
            kind = getattr(lightning_callbacks, name, None)
            if kind is not None and issubclass(callback, kind):
                raise ValueError(f"trainer.callbacks: {callback.__name__}: {reason}")


def check_length(trainer: pl.Trainer) -> None:
    """Refuse a least number of steps that the epochs do not have, and warn of a greatest that is not reached.

    Args:
        trainer: The trainer, when training starts.

    Raises:
        ValueError: Naming both numbers.
    """
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    steps = epochs * trainer.num_training_batches
    of_epochs = f"is more than the {steps} steps of trainer.max_epochs {epochs}"
    if steps < (trainer.min_steps or 0):
        raise ValueError(f"trainer.min_steps: {trainer.min_steps} {of_epochs}")
    if steps < trainer.max_steps:
        rank_zero_warn(f"trainer.max_steps: {trainer.max_steps} {of_epochs}, where the run ends")


def check_metrics(trainer: pl.Trainer, names: Callable[[], set[str]], stats: bool, has_rate: bool) -> None:
    """Refuse a callback that watches a metric which this run does not have.

    Callbacks that are neither Lightning's nor ours may log metrics of their own: with one of these, every name is
    accepted.

    Args:
        trainer: The trainer, when training starts.
        names: Returns the names of the metrics there are.
        stats: Whether those of the optimizer, ``stats/*``, are among them; before the first step they are not known,
            and accepted.
        has_rate: Whether the optimizer has a learning rate.

    Raises:
        ValueError: Naming the callback, the metric, and the metrics there are.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    own = any(not type(callback).__module__.startswith(("lightning.", "filtune.")) for callback in callbacks)
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, LearningRateMonitor) and not has_rate:
            raise ValueError(f"trainer.callbacks: {name}: this optimizer has no learning rate; remove the callback")
        monitor = getattr(callback, "monitor", None) if isinstance(callback, Checkpoint | EarlyStopping) else None
        awaited = own or monitor is None or (monitor.startswith("stats/") and not stats)
        if not awaited and monitor not in names():
            others = "" if stats else ", and stats/* of the optimizer"
            raise ValueError(
                f"trainer.callbacks: {name}: monitor: there is no metric {monitor!r}; there are "
                f"{', '.join(sorted(names()))}{others}"
            )


def await_metrics(trainer: pl.Trainer, names: Collection[str]) -> None:
    """Let callbacks wait for metrics that a validation may not know yet, such as the forgetting before there is any.

    Lightning's own would end the run at the first validation without the metric that they monitor.

    Args:
        trainer: The trainer, when training starts.
        names: Names of such metrics.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Checkpoint | EarlyStopping) and getattr(callback, "monitor", None) in names:
            for hook in ("on_validation_end", "on_train_epoch_end"):
                setattr(callback, hook, partial(_once_known, getattr(callback, hook), callback.monitor))  # type: ignore[union-attr]


def _once_known(hook: Callable[..., None], monitor: str, trainer: pl.Trainer, *rest: Any) -> None:
    if monitor in trainer.callback_metrics:
        hook(trainer, *rest)


def watches_steps(trainer: pl.Trainer) -> bool:
    """Return whether a callback decides by a metric of the stream, which must then be known after every step."""
    watched = (getattr(callback, "monitor", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return any(isinstance(name, str) and name.startswith(("online/", "stats/")) for name in watched)
