"""A learner as a checkpoint: the file of ``fit``, with what only a learner has beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filtune.datamodules import Task
from filtune.lightning_modules.checkpoints import (
    FORMAT,
    AtomicCheckpointIO,
    check_inputs,
    compare_names,
    frozen_fingerprint,
    translate_tensors,
)
from filtune.lightning_modules.runs import CheckpointError, find_checkpoint, unreadable
from filtune.lightning_modules.trust import OwnClasses

from .features import Features
from .growth import mark_updated
from .labels import as_saved
from .settings import LearnerSettings, takes_new

if TYPE_CHECKING:
    from .learner import OnlineLearner

LIVE = "live"
"""Entry of a checkpoint with what only a learner has."""


def write(learner: OnlineLearner, path: Path, further: dict[str, Any] | None = None) -> None:
    """Write a learner, and further entries, whole or not at all.

    Raises:
        FloatingPointError: If the optimizer has diverged.
    """
    with learner.lock:
        learner.check()
        AtomicCheckpointIO().save_checkpoint({**content(learner), **(further or {})}, path)


def content(learner: OnlineLearner) -> dict[str, Any]:
    """Return a checkpoint of tensors and plain values; the tensors are those of the learner."""
    model, settings = learner.model, learner.settings
    state = model.state_dict()
    kept = model.saved_names(state)
    return {
        "state_dict": {name: tensor for name, tensor in state.items() if name in kept},
        "optimizer_states": [learner.optimizer.state_dict()],
        "lr_schedulers": [] if learner.scheduler is None else [learner.scheduler.state_dict()],
        "loops": {},
        "epoch": 0,
        "global_step": learner.steps,
        "filtune": {
            "format": FORMAT,
            "config": settings.config,
            "ranks": 1,
            "fingerprint": frozen_fingerprint(model.backbone),
            "inputs": model.backbone.input_settings(),
            "validation": {},
            "predictions": model.online.log and model.online.log.state(),
            "rewinds": learner.watch.rewinds,
            "weight_averaging": model.average.state_dict(),
            "backbone": settings.architecture.name,
            "task": asdict(model.task),
        },
        LIVE: {
            "classes": as_saved(learner.labels.values),
            "columns": settings.columns,
            "takes_new": settings.takes_new,
            "max_pending": settings.max_pending,
            "total_steps": settings.total_steps,
            "pending": learner.pending.state(),
            "counts": learner.counts(),
            "drift": learner.drift_state,
            "good": learner.watch.state(),
            "features": learner.inputs.features.state(),
            "monitor": learner.monitor.state(),
        },
    }


def restore_learner(
    learner: OnlineLearner,
    path: Path,
    new_classes: str | None,
    max_pending: int | None,
    total_steps: int | None,
    own: Sequence[str],
    device: torch.device,
) -> None:
    """Build a learner from a checkpoint; the arguments are those of :meth:`OnlineLearner.from_checkpoint`.

    Raises:
        CheckpointError: If it cannot be restored, in one line with the path.
    """
    path = find_checkpoint(path)
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    try:
        restore_content(learner, checkpoint, new_classes, max_pending, total_steps, own=own, device=device)
    except (CheckpointError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise unreadable(error, str(path)) from error


def restore_content(
    learner: OnlineLearner,
    checkpoint: dict[str, Any],
    new_classes: str | None = None,
    max_pending: int | None = None,
    total_steps: int | None = None,
    *,
    own: OwnClasses,
    device: torch.device,
) -> None:
    """Build a learner from the content of a checkpoint; without the state of an optimizer, its state is empty.

    Raises:
        CheckpointError: If it does not fit the backbone of today.
    """
    live = checkpoint.get(LIVE) or {}
    settings = _settings(checkpoint, live, new_classes, max_pending, own)
    settings = replace(settings, total_steps=total_steps or live.get("total_steps"))
    learner.build(settings, device, live.get("classes"))
    _load(learner, checkpoint, live)


def _settings(
    checkpoint: dict[str, Any],
    live: dict[str, Any],
    new_classes: str | None,
    max_pending: int | None,
    own: OwnClasses,
) -> LearnerSettings:
    saved = checkpoint["filtune"]
    config, known = saved["config"], {each.name for each in fields(Task)}
    if not config.get("optimizer") or not config.get("model"):
        raise CheckpointError("ckpt_path: the checkpoint does not hold the configuration of its run; train by fit")
    if "task" not in saved:
        raise CheckpointError("ckpt_path: an earlier release wrote the checkpoint, without its task; resume it by fit")
    task = Task(**{name: value for name, value in saved["task"].items() if name in known})
    task = replace(task, classes=tuple(task.classes), metrics=tuple(task.metrics), segments=())
    # the units are the checkpoint's, whatever the data of the run had
    task = replace(task, target_scaling=any(name.startswith("target_state.") for name in checkpoint["state_dict"]))
    options = (config.get("data") or {}).get("init_args") or {}
    found = options.get("text_columns") or options.get("image_column") or []
    return LearnerSettings(
        config=config,
        task=task,
        columns=live.get("columns", [found] if isinstance(found, str) else list(found)),
        takes_new=bool(live.get("takes_new")) if new_classes is None else takes_new(None, new_classes),
        max_pending=live.get("max_pending", 10_000) if max_pending is None else max_pending,
        own=None if own is None else tuple(own),
    )


def _load(learner: OnlineLearner, checkpoint: dict[str, Any], live: dict[str, Any]) -> None:
    """Load all state into a learner that was built for it."""
    model, saved = learner.model, checkpoint["filtune"]
    state = checkpoint["state_dict"]
    translate_tensors(state)
    own = model.state_dict()
    compare_names(state, {name: own[name] for name in model.saved_names(own)}, earlier="format" not in saved)
    name = learner.settings.architecture.name
    if saved["fingerprint"] != frozen_fingerprint(model.backbone):
        raise CheckpointError(
            f"ckpt_path: the frozen weights of {name!r} are not those the checkpoint was trained on; restore the same "
            "backbone, and the same seed where it is random"
        )
    check_inputs(saved.get("inputs") or {}, model.backbone.input_settings(), name)
    model.load_state_dict(state, strict=False)
    model.online.load_log(saved.get("predictions"), int(model.online.samples))
    if int(model.online.samples):
        for metric in model.online.set.metrics.values():
            mark_updated(metric)
    for state in checkpoint["optimizer_states"]:
        learner.optimizer.load_state_dict(state)
    if learner.scheduler is not None and checkpoint["lr_schedulers"]:
        learner.scheduler.load_state_dict(checkpoint["lr_schedulers"][0])
    if saved.get("weight_averaging"):
        model.average.load_state_dict(saved["weight_averaging"])
    learner.watch.rewinds = saved["rewinds"]
    learner.steps = checkpoint["global_step"]
    if live:
        learner.pending.load(live["pending"])
        learner.load_counts(live["counts"], live["drift"])
        if "features" in live:
            learner.inputs.features = Features.of_state(live["features"])
        if "monitor" in live:
            learner.monitor.load(live["monitor"], learner.device)
    learner.keep()
    learner.watch.load(live.get("good"))
