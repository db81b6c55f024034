"""Treatment of the options of Lightning's trainer by ``fit`` and ``validate``: passed on, refused, or ours.

docs/lightning.md says so of every option; ``lightning_modules/trainer_checks.py`` refuses what no trainer may be given.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from filtune.lightning_modules.callbacks import LogInterval, OnlineProgressBar, ProgressLines, Validations
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO
from filtune.lightning_modules.defaults import import_class
from filtune.lightning_modules.trainer_checks import check_callback_classes

# a callback's default may be an enumeration, as that of Timer is, which config.yaml holds by its value
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))

MOST_PROCESSES = 4
"""Processes on the CPU that need not have a core each."""


def check_options(given: Mapping[str, Any], on_divergence: str) -> None:
    """Refuse options that the trainer of a run takes from elsewhere, or that do not go together.

    Args:
        given: The options of the trainer, callbacks and loggers not built.
        on_divergence: ``model.on_divergence``.

    Raises:
        ValueError: Naming the option and the remedy.
    """
    if given.get("default_root_dir") is not None:
        raise ValueError("trainer.default_root_dir: runs are kept under --run.root; set that instead")
    named = (import_class(each.get("class_path", "")) for each in _as_list(given.get("callbacks")))
    check_callback_classes(cls for cls in named if cls is not None)
    strategy = str(given.get("strategy"))
    if found := re.search("spawn|fork|notebook", strategy):
        raise ValueError(f"trainer.strategy: {strategy}: {found[0]} is not for the command line; take ddp")
    if re.search("fsdp|deepspeed|model_?parallel", strategy, flags=re.IGNORECASE):
        raise ValueError(f"trainer.strategy: {strategy} does not keep all parameters on every process; take ddp")
    if not is_checkpointing(given) and on_divergence == "rewind":
        raise ValueError(
            "model.on_divergence: rewind returns to the last checkpoint, and there is none with "
            "trainer.enable_checkpointing false; set it to stop"
        )
    if re.search("tpu|xla", str(given.get("accelerator")), flags=re.IGNORECASE):
        raise ValueError("trainer.accelerator: TPUs are not supported; take gpu, cpu or auto")
    devices, cores = given.get("devices"), os.cpu_count() or 1
    if given.get("accelerator") == "cpu" and str(devices).isdigit() and int(str(devices)) > max(MOST_PROCESSES, cores):
        raise ValueError(
            f"trainer.devices: {devices} processes are too many for {cores} cores; one process with "
            f"{devices} times the --data.batch_size makes the same updates"
        )


def check_checkpoint_name(name: str | None, given: Mapping[str, Any], command: str) -> None:
    """Refuse names of checkpoints that only a trainer that has just trained knows, and of runs without checkpoints.

    Raises:
        ValueError: Naming the option and the remedy.
    """
    if name == "":
        raise ValueError("ckpt_path: is empty; give the path of a checkpoint, or leave it out")
    if name in ("best", "hpc") or str(name).startswith("registry"):
        last = ", or last for that of the newest run" if command == "fit" else ""
        raise ValueError(f"ckpt_path: {name} is known to no new process; give the path of a checkpoint{last}")
    if command == "fit" and given.get("fast_dev_run") and name is not None:
        raise ValueError("trainer.fast_dev_run: resumes no run; leave out --ckpt_path")
    if command == "fit" and not is_checkpointing(given) and name == "last":
        raise ValueError("trainer.enable_checkpointing: false leaves no checkpoint to resume; leave out --ckpt_path")


def is_checkpointing(given: Mapping[str, Any]) -> bool:
    """Return whether the run is to leave checkpoints."""
    return given.get("enable_checkpointing") is not False and not given.get("barebones")


def trainer_arguments(given: Mapping[str, Any], training: bool) -> dict[str, Any]:
    """Return the arguments of the trainer that differ from what was given.

    Args:
        given: The options of the trainer, callbacks, loggers and plugins built.
        training: Whether it is to train.

    Raises:
        ValueError: If a plugin would write the checkpoints.
    """
    callbacks, plugins = _as_list(given.get("callbacks")), _as_list(given.get("plugins"))
    for plugin in plugins:
        if isinstance(plugin, CheckpointIO):
            raise ValueError(
                f"trainer.plugins: {type(plugin).__name__}: checkpoints are written by filtune, so that a kill cannot "
                "spoil them; remove it"
            )
    if not training:  # a run's own configuration may be given, whose callbacks save checkpoints
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    is_shown = given.get("enable_progress_bar") is not False and not given.get("barebones")
    if is_shown and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(OnlineProgressBar(refresh_rate=20) if sys.stdout.isatty() else ProgressLines())
    has_precision = any(isinstance(plugin, Precision) for plugin in plugins)
    unlimited = given.get("max_steps", -1) == -1 and given.get("max_time") is None
    return {
        "callbacks": callbacks,
        "plugins": [*plugins, AtomicCheckpointIO()],
        "precision": None if has_precision else given.get("precision"),
        "max_epochs": 1 if given.get("max_epochs") is None and unlimited else given.get("max_epochs"),
        "num_sanity_val_steps": given.get("num_sanity_val_steps") or 0,
        "enable_model_summary": bool(given.get("enable_model_summary")),
        "enable_checkpointing": training and is_checkpointing(given),
        "logger": named_loggers(given) or False,
        "use_distributed_sampler": False,
    }


def timing_callbacks(given: Mapping[str, Any], validations: int | None) -> list[Callback]:
    """Return what decides when a run validates and logs; they come first among the callbacks.

    Args:
        given: The options of the trainer.
        validations: ``run.validations``.
    """
    found: list[Callback] = [Validations(validations, given.get("val_check_interval") is not None)]
    is_left = given.get("log_every_n_steps") is None and not given.get("barebones")
    return [*found, LogInterval()] if is_left else found


def named_loggers(given: Mapping[str, Any]) -> list[Logger]:
    """Return the loggers that the user named."""
    return [logger for logger in _as_list(given.get("logger")) if isinstance(logger, Logger)]


def has_own_logger(given: Mapping[str, Any]) -> bool:
    """Return whether the run writes TensorBoard's files into its folder: unless there is to be no logger."""
    return given.get("logger") is not False and not given.get("barebones")


def has_launched_processes(trainer: Trainer) -> bool:
    """Return whether other processes of the run were started beside this one, as by torchrun, and wait for it."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return trainer.world_size > 1 and environment is not None and environment.creates_processes_externally


def finish_loggers(loggers: list[Logger]) -> None:
    """End the runs of loggers that allow one at a time in a process, so that a baseline begins its own."""
    for logger in loggers:
        own = getattr(logger, "experiment", None)
        end = getattr(own, "finish", None) or getattr(own, "end", None)
        if callable(end):
            end()


@contextmanager
def refusals_of_lightning(given: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turn an error that Lightning's own code raises on purpose into one that is reported in one line.

    So are errors of torch that an option of the trainer asks for.

    Args:
        given: The options of the trainer, where it is being built: those of the machine are named.

    Raises:
        ValueError: With Lightning's message.
        FloatingPointError: If a gradient is not finite and ``trainer.detect_anomaly`` looks for that.
    """
    try:
        yield
    except (MisconfigurationException, RuntimeError, TypeError, NotImplementedError, ImportError, ValueError) as error:
        said = " ".join(str(error).split()).rstrip("!.")
        if "returned nan values" in said:
            raise FloatingPointError(f"trainer.detect_anomaly: {said}; FILTUNE_DEBUG=1 shows where") from error
        if "deterministic" in said and isinstance(error, RuntimeError):
            raise ValueError(f"trainer.deterministic: {said.partition('. ')[0]}; take warn or false") from error
        place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not place.is_relative_to(Path(lightning.__file__).parent):
            raise
        culprit = _culprit(str(error), given)
        remedy = "; take --trainer.accelerator auto, or cpu" if culprit.startswith("trainer: accelerator") else ""
        raise ValueError(f"{culprit}: {said}{remedy}") from error


def _culprit(message: str, given: Mapping[str, Any] | None) -> str:
    """Return the option of the trainer that a message of Lightning's names, or those that name the machine."""
    known = inspect.signature(Trainer).parameters
    words = re.findall(r"`(?:Trainer\()?(\w+)|\b([a-z]+_[a-z_]+)|(duration)", message)
    named = next((name for word in words if (name := "".join(word).replace("duration", "max_time")) in known), None)
    if named is not None or given is None:
        return f"trainer.{named}" if named else "trainer"
    names = [f"{name} {given[name]}" for name in ("accelerator", "devices", "strategy") if given.get(name) is not None]
    return f"trainer: {', '.join(names)}"


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    return [] if value is None or isinstance(value, bool) else [value]
