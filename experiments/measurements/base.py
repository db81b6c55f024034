"""A measurement in place of ``filtune fit``: its process, and the folder that it leaves, which is like a run's."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from filtune.lightning_modules.atomic import atomic_write
from filtune.lightning_modules.defaults import import_class
from filtune.lightning_modules.runs import CONFIG, SUMMARY

from ..composition import Config, lookup
from ..runs import MEASURED

if TYPE_CHECKING:
    from filtune.datamodules import StreamDataModule

Log = Callable[..., None]
"""``log(name, value, step=0)`` records a scalar; the last one of a name is the metric ``measured_NAME``."""


class Measurement(ABC):
    """A measurement of a table; the arguments of its constructor are the options ``measurement.NAME``."""

    @abstractmethod
    def measure(self, config: Config, data: StreamDataModule, seed: int, log: Log) -> None:
        """Measure and return the results.

        Args:
            config: The composed configuration of the cell, with local folders in place of hub ids.
            data: Its data module, set up.
            seed: The seed.
            log: Records a scalar.
        """


def build(config: Config) -> Measurement:
    """Return the measurement that a configuration names.

    Raises:
        ValueError: If there is no such class, or its options are wrong.
    """
    path, options = lookup(config, "measurement.class_path"), lookup(config, "measurement.init_args") or {}
    cls = import_class(str(path))
    if not (isinstance(cls, type) and issubclass(cls, Measurement)):
        raise ValueError(f"measurement.class_path: {path} is not a class of filtune.experiments.measurements")
    try:
        return cls(**options)
    except TypeError as error:
        raise ValueError(f"measurement: {' '.join(str(error).split())}; correct its options") from error


def main(args: list[str]) -> None:
    """Make a measurement in the process of a run, and leave its configuration, scalars and summary.

    A measurement that was killed is made again from its beginning.
    """
    parser = argparse.ArgumentParser(prog="measure")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seed_everything", type=int, required=True)
    parser.add_argument("--run.root", dest="root", type=Path, required=True)
    options = parser.parse_args(args)
    config = yaml.safe_load(options.config.read_text())
    folder = options.root / "measurement"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run_measurement(config, options.seed_everything, folder)


def run_measurement(config: Config, seed: int, folder: Path) -> None:
    """Make a measurement and write what a run of ``filtune fit`` writes into its folder."""
    from filtune.lightning_modules.callbacks.summary import commit, device_name, versions
    from torch.utils.tensorboard import SummaryWriter

    from ..streams import build_data

    measurement, started = build(config), time.perf_counter()
    data = build_data(config["data"], seed)
    torch.manual_seed(seed)
    with SummaryWriter(str(folder)) as writer:

        def log(name: str, value: float, step: int = 0) -> None:
            writer.add_scalar(f"{MEASURED}{name}", value, step)

        measurement.measure(config, data, seed, log)
    summary: dict[str, Any] = {
        "optimizer": type(measurement).__name__,
        "task": data.label,
        "backbone": str(lookup(config, "model.backbone.name") or type(measurement).__name__),
        "samples": len(data.part.rows),
        "val": {},
        "seed": seed,
        "wall_seconds": time.perf_counter() - started,
        "data_fingerprint": data.fingerprint(),
        "device": device_name(torch.device("cpu")),
        "versions": versions(),
        "commit": commit(),
        "finished": True,
    }
    with atomic_write(folder / CONFIG) as file:
        yaml.safe_dump({**config, "seed_everything": seed}, file, sort_keys=False)
    with atomic_write(folder / SUMMARY) as file:
        json.dump(summary, file, indent=1)
