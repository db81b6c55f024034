"""The runs of one command: which folder each has, and what resumes when the command is given again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import atomic_write, sweep_folder
from .checkpoints import AtomicCheckpointIO, config_differences
from .integrity import DamagedFile, read_yaml, sealed
from .locks import FolderLock
from .run_files import BASELINES, check_files, check_links, read_baselines, read_job, write_job
from .runs import CONFIG, LAST, SUMMARY, CheckpointError


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

    Where ``config.yaml`` is damaged or missing, that in the checkpoint counts. Where neither can be read the answer is
    yes, for the folder is then refused with the name of the damaged file.

    Args:
        folder: The folder.
        config: The configuration.
        model: The class whose options ``model`` are.
    """
    try:
        saved = _config_of(folder)
        return saved is None or not config_differences(saved, config, model=model)
    except (TypeError, AttributeError, KeyError, ValueError):  # no configuration of a run
        return True


def _config_of(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of the run in a folder; None where nothing in it can be read."""
    try:
        # a pipe or a device, on which reading would not end, is refused by check_links
        saved = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else None
        if isinstance(saved, dict):
            return saved
    except (DamagedFile, OSError):
        pass
    try:
        return AtomicCheckpointIO().load_checkpoint(folder / "checkpoints" / LAST)["filtune"]["config"]
    except CheckpointError:
        return None


def open_begun(folder: Path, lock: FolderLock) -> None:
    """Lock the folder of a run that is resumed, and check it before anything in it is overwritten.

    Args:
        folder: The folder.
        lock: Its lock, which is acquired.

    Raises:
        MisplacedFile: If a link leads out of it, or a file is none.
        FolderInUse: If another command writes into it.
        DamagedFile: If one of its files is damaged.
    """
    check_links(folder)
    lock.acquire()
    for place in (folder, folder / "checkpoints"):
        sweep_folder(place)
    last = folder / "checkpoints" / LAST
    if (folder / SUMMARY).is_file() and not last.is_file():
        raise DamagedFile(
            f"{last}: is missing, and the run has ended; put it back, or leave out --ckpt_path to make the run again "
            "in a new folder"
        )
    check_files(folder)


def keep_baseline(folder: Path, baseline: str, place: Path) -> None:
    """Keep the folder of a baseline in that of its run, before it begins.

    Args:
        folder: The folder of the run.
        baseline: The baseline's name in ``run.baselines``.
        place: The folder of the baseline.
    """
    known = {**read_baselines(folder), baseline: place}
    content = {name: os.path.relpath(path, folder) for name, path in known.items()}
    with atomic_write(folder / BASELINES) as file:
        file.write(json.dumps(sealed(content), indent=1) + "\n")


def kept_baseline(folder: Path, baseline: str) -> Path | None:
    """Return the folder of a baseline that was begun; None where the run's folder does not name one.

    Raises:
        DamagedFile: If the file that names it is damaged.
    """
    place = read_baselines(folder).get(baseline)
    return place if place is not None and place.is_dir() else None


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
        write_job(folder, job)


def is_of_job(folder: Path) -> bool:
    """Return whether the present SLURM job wrote a run's folder, before it was requeued.

    Raises:
        DamagedFile: If the file that says so is damaged.
    """
    return read_job(folder) == slurm_job()
