"""The run's result, as ``summary.json`` and in every logger."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from ..atomic import atomic_write
from ..event_files import SIZES, sizes_of
from ..integrity import DamagedFile, read_json, sealed
from ..online import OnlineModule
from ..predictions import WORST, write_predictions
from ..run_files import created_files, remove_created
from ..runs import SUMMARY
from ..tensorboard import RunLogger

PACKAGES = ("filtune", "torch", "lightning", "peft", "transformers", "timm", "datasets", "torchmetrics")


class RunSummary(pl.Callback):
    """Callback that writes ``summary.json`` when the fit ends.

    Args:
        folder: The run's folder.
        optimizer: Name of the optimizer.
        config: The composed configuration.
        is_new: Whether the folder was created for this run, so that all files of filtune in it are this run's.
        write_figures: Called before the summary is written, which states the sizes of the event files.
        announces: Whether to print what was read of the data when training starts.

    Raises:
        ValueError: If ``run.worst_samples`` in the configuration is not between 0 and 12.
    """

    def __init__(
        self,
        folder: Path,
        optimizer: str,
        config: dict[str, Any],
        is_new: bool = False,
        write_figures: Callable[[pl.Trainer, OnlineModule], None] = lambda *_: None,
        announces: bool = True,
    ) -> None:
        worst_samples = (config.get("run") or {}).get("worst_samples", WORST)
        if not 0 <= worst_samples <= WORST:
            raise ValueError(f"run.worst_samples: must be between 0 and {WORST}, got {worst_samples}")
        self.worst_samples = worst_samples
        self.folder, self.optimizer, self.config, self.write_figures = folder, optimizer, config, write_figures
        self._found = set() if is_new else set(created_files(folder))
        self.announces, self.announced = announces, False
        self._start = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what was read of the data, and start the clock."""
        assert isinstance(pl_module, OnlineModule)
        self._start, self._first_step = time.perf_counter(), trainer.global_step
        if trainer.is_global_zero and self.announces:
            print(trainer.datamodule.report(), flush=True)
        self.announced = self.announces
        pl_module.clock = lambda: time.perf_counter() - self._start

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave nothing behind of a run that failed before its second step; its first tells which metrics there are.

        What was in the folder before, and what is not of filtune, stays, and with it the folder.
        """
        failed = isinstance(exception, Exception)  # one that a signal has stopped begins again in its folder
        begun = trainer.global_step > 1 or (self.folder / "checkpoints").exists()
        if failed and trainer.is_global_zero and not begun:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):  # whose thread would write to a file that is gone
                    logger.experiment.close()
            remove_created(self.folder, self._found)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the summary and the hyper-parameters."""
        assert isinstance(pl_module, OnlineModule)
        if not trainer.interrupted and trainer.is_global_zero:
            self._write(trainer, pl_module, time.perf_counter() - self._start)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the summary of a run that was killed between its last checkpoint and its summary."""
        assert isinstance(pl_module, OnlineModule)
        if trainer.is_global_zero and trainer.global_step and self._last_summary() != trainer.global_step:
            self._first_step = trainer.global_step
            self._write(trainer, pl_module, 0.0)

    def _last_summary(self) -> int | None:
        """Return the steps that the summary in the folder is of."""
        try:
            return read_json(self.folder / SUMMARY).get("steps")
        except (DamagedFile, OSError):
            return None

    def _write(self, trainer: pl.Trainer, module: OnlineModule, seconds: float) -> None:
        """Write the log first: the summary is the last file of a run, and lists the bytes of its event files."""
        summary = self._summary(trainer, module, seconds)
        self.write_figures(trainer, module)
        if module.online.log is not None:
            worst, classes = self.worst_samples, module.task.classes
            write_predictions(self.folder, module.online.log, trainer.datamodule, classes, worst)
        results = {f"final/{k}": v for k, v in summary.items() if k.startswith("online_") and v is not None}
        results |= {f"final/{name}": value for name, value in module.last_validation.items()}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                hyperparameters = _hyperparameters(summary, self.config)
                if isinstance(logger, RunLogger):
                    logger.log_results(hyperparameters, _result_curves(module))
                else:
                    logger.log_hyperparams(hyperparameters, results)
                logger.experiment.flush()
            else:
                logger.log_metrics(results, step=trainer.global_step)
            logger.save()
        summary[SIZES] = sizes_of(self.folder)
        with atomic_write(self.folder / SUMMARY) as file:
            file.write(json.dumps(sealed(summary), indent=2) + "\n")

    def _summary(self, trainer: pl.Trainer, module: OnlineModule, seconds: float) -> dict[str, Any]:
        online = {name: float(value) for name, value in module.online.compute().items()}
        steps = trainer.global_step - self._first_step
        return {
            "optimizer": self.optimizer,
            "task": module.task.name,
            "kind": module.task.kind,
            "classes": list(module.task.classes),
            "backbone": Path(module.backbone_config.name).name,
            "seed": self.config.get("seed_everything"),
            "samples": int(module.online.samples),
            "score": module.online.score,
            "steps": trainer.global_step,
            **{name.replace("/", "_"): value for name, value in online.items() if name != "online/l1"},
            "val": {name.removeprefix("val/"): value for name, value in module.last_validation.items()},
            **trainer.datamodule.sizes,
            "data": trainer.datamodule.report().to_dict(),
            "data_fingerprint": module.data_fingerprint,
            "total_parameters": sum(p.numel() for p in module.backbone.parameters()),
            "trainable_parameters": sum(p.numel() for p in module.backbone.parameters() if p.requires_grad),
            "skipped_rows": dict(getattr(trainer.datamodule, "skipped_rows", {})),
            "rewinds": module.watch.rewinds,
            "seconds_per_step": module.timer.median(),
            "mean_seconds_per_step": module.timer.mean(),
            "seconds_per_step_wall": seconds / steps if steps else None,
            "wall_seconds": module.seconds_before + seconds,
            "peak_memory_bytes": peak_memory_bytes(module.device),
            "device": device_name(module.device),
            "precision": str(trainer.precision),
            "versions": versions(),
            "commit": commit(),
            "finished": True,
        }


def has_announced(trainer: pl.Trainer) -> bool:
    """Return whether a run has printed what was read of the data."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(callback.announced for callback in callbacks if isinstance(callback, RunSummary))


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def device_name(device: torch.device) -> str:
    """Return the name of the device of the run."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that shape the result; read once in a process."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """Return the commit of the source tree filtune runs from, read once; None where it is installed elsewhere."""
    root = Path(__file__).resolve().parents[2]
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--show-toplevel", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    toplevel, _, head = answer.stdout.strip().partition("\n")
    return head if answer.returncode == 0 and Path(toplevel) == root else None


def _hyperparameters(summary: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    names = ("optimizer", "task", "backbone", "seed", "samples")
    arguments = (config.get("optimizer") or {}).get("init_args") or {}
    plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in arguments.items()}
    return {**{name: summary[name] for name in names}, **{f"optimizer.{k}": v for k, v in plain.items()}}


def _result_curves(module: OnlineModule) -> list[str]:
    """Return the names of the curves whose last values are the run's results."""
    return [name for name in module.online.compute() if name != "online/l1"] + list(module.last_validation)
