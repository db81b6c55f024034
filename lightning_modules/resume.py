"""The runs of one command: which folder each has, and what resumes when the command is given again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import atomic_write
from .checkpoints import config_differences
from .integrity import DamagedFile, read_json, read_yaml, sealed
from .runs import CONFIG

BASELINES = "baselines.json"
"""File in a run's folder that names the folders of its baselines."""

JOB = "slurm_job"
"""File in a run's folder with the number of the SLURM job that runs it."""


@dataclass(frozen=True)
class Baseline:
    """A baseline among the runs of a command.

    Attributes:
        run: The folder of the command's first run.
        name: The baseline's name in ``run.baselines``.
        stream: Fingerprint of the data that the first run has learned from.
    """

    run: Path
    name: str
    stream: dict[str, Any] | None = None


def has_config(folder: Path, config: dict[str, Any], model: type) -> bool:
    """Return whether a run's folder is of this configuration.

    Where it cannot be read and there is a checkpoint, that decides later.

    Args:
        folder: The folder.
        config: The configuration.
        model: The class whose options ``model`` are.
    """
    try:
        saved = read_yaml(folder / CONFIG)
        return isinstance(saved, dict) and not config_differences(saved, config, model=model)
    except (DamagedFile, OSError, TypeError, AttributeError, KeyError):
        return (folder / "checkpoints").is_dir()


def keep_baseline(folder: Path, baseline: str, place: Path) -> None:
    """Keep the folder of a baseline in that of its run, before it begins.

    Args:
        folder: The folder of the run.
        baseline: The baseline's name in ``run.baselines``.
        place: The folder of the baseline.
    """
    known = _read_baselines(folder)
    known[baseline] = os.path.relpath(place, folder)
    with atomic_write(folder / BASELINES) as file:
        file.write(json.dumps(sealed(known), indent=1) + "\n")


def kept_baseline(folder: Path, baseline: str) -> Path | None:
    """Return the folder of a baseline that was begun; None where the run's folder does not name one.

    Raises:
        DamagedFile: If the file that names it is damaged.
    """
    name = _read_baselines(folder).get(baseline)
    if not isinstance(name, str):
        return None
    place = Path(os.path.normpath(folder / name))
    if place.resolve().parents[1] != folder.resolve().parents[1]:
        raise DamagedFile(f"{folder / BASELINES}: {baseline} is not in a folder beside the run's, but in {place}")
    return place if place.is_dir() else None


def _read_baselines(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / BASELINES)
    except FileNotFoundError:
        return {}


def slurm_job() -> str | None:
    """Return the number of the SLURM job that this process belongs to; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def is_requeued() -> bool:
    """Return whether SLURM has requeued the job: then the same command resumes its run."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def keep_job(folder: Path) -> None:
    """Keep the number of the SLURM job in the run's folder, if there is a job."""
    job = slurm_job()
    if job is not None:
        with atomic_write(folder / JOB) as file:
            file.write(job)


def is_of_job(folder: Path) -> bool:
    """Return whether the present SLURM job wrote a run's folder, before it was requeued."""
    try:
        return (folder / JOB).read_text() == slurm_job()
    except (OSError, ValueError):
        return False
