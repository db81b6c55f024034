"""Folders of runs, named by task, backbone, optimizer and seed."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

LAST = "last.ckpt"
"""Name of a run's checkpoint, in its folder ``checkpoints``."""


class CheckpointError(ValueError):
    """A checkpoint is missing, corrupt, foreign, or contradicts the run that continues it."""


@dataclass
class RunConfig:
    """Folder, checkpoint interval and baselines of a run.

    Args:
        root: Folder that holds all runs.
        save_interval: Steps between two checkpoints.
        baselines: Optimizers, by class or by name or path of a configuration, that are then trained on the same stream;
            a table compares the results.
    """

    root: str = "runs"
    save_interval: int = 200
    baselines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunName:
    """The parts of a run's name.

    Args:
        task: Name of the task.
        backbone: Name of the backbone, or the path it was loaded from.
        optimizer: Name of the optimizer.
        seed: The run's seed.
    """

    task: str
    backbone: str
    optimizer: str
    seed: int | None

    @property
    def experiment(self) -> str:
        """Name of the folder of all runs on the same task and backbone."""
        return f"{_slug(self.task)}-{_slug(Path(self.backbone).name)}"

    @property
    def stem(self) -> str:
        """Name of the folder of all runs of the same optimizer and seed."""
        return f"{self.optimizer}-seed{self.seed}"


def new_folder(root: Path, name: RunName) -> Path:
    """Create the run's folder: the first free ``version_k``; safe when runs start at the same time."""
    parent = root / name.experiment / name.stem
    parent.mkdir(parents=True, exist_ok=True)
    for k in itertools.count():
        try:
            (parent / f"version_{k}").mkdir()
        except FileExistsError:
            continue
        return parent / f"version_{k}"
    raise AssertionError


def last_folder(root: Path, name: RunName) -> Path:
    """Return the newest run of this name with a checkpoint.

    Raises:
        CheckpointError: If there is none.
    """
    parent = root / name.experiment / name.stem
    saved = [path.parent.parent for path in parent.glob(f"version_*/checkpoints/{LAST}")]
    if not saved:
        raise CheckpointError(
            f"ckpt_path: there is no checkpoint to continue under {parent}; start without --ckpt_path"
        )
    return max(saved, key=lambda folder: int(folder.name.removeprefix("version_")))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)[:100].strip("-") or "run"  # file systems allow 255 bytes
