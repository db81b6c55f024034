"""Folders of runs, named by task, backbone, optimizer and seed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LAST = "last.ckpt"
"""Name of a run's checkpoint, in its folder ``checkpoints``."""

CONFIG = "config.yaml"
"""Name of a run's configuration, in its folder."""

EVENT_SIZES = "events.json"
"""Name of the file with the sizes of a run's event files at its last checkpoint, in its folder."""

SUMMARY = "summary.json"
"""Name of a run's result, in its folder."""

PREDICTIONS = "predictions.json"
"""Name of the file with a run's predictions by class and the worst of them, in its folder."""

STREAM = "FILTUNE_STREAM"
"""Environment variable with the fingerprint of the stream, as JSON: sweep and reproduce set it for their runs."""


class CheckpointError(ValueError):
    """A checkpoint is missing, corrupt, foreign, or contradicts the run that continues it."""


def unreadable(error: Exception, path: str) -> CheckpointError:
    """Return the error of a checkpoint that cannot be restored, in one line with its path."""
    if isinstance(error, CheckpointError):
        return error if path in str(error) else CheckpointError(f"{error} ({path})")
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return CheckpointError(
        f"ckpt_path: {path} cannot be restored, it is incomplete, damaged or of another run ({reason}); take another "
        "checkpoint, or start a new run without --ckpt_path"
    )


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path means: a folder stands for the last one of its run, or of the only run in it.

    Raises:
        CheckpointError: If it is a folder without a run, or with several; names them.
    """
    if not path.is_dir():
        return path
    own = [place for place in (path / "checkpoints" / LAST, path / LAST) if place.is_file()]
    found = own or sorted(path.rglob(f"checkpoints/{LAST}"))
    if not found:
        raise CheckpointError(f"ckpt_path: the folder {path} has no checkpoints/{LAST}; name a run's folder or a file")
    if len(found) > 1 and not own:
        runs = [str(place.parents[1]) for place in found]
        more = f" and {len(runs) - 2} more" if len(runs) > 2 else ""
        raise CheckpointError(f"ckpt_path: {path} has several runs: {', '.join(runs[:2])}{more}; name one of them")
    return found[0]


@dataclass
class RunConfig:
    """Folder, checkpoint interval, validations and baselines of a run.

    Args:
        root: Folder of all runs.
        save_interval: Number of steps from one checkpoint to the next.
        validations: Number of validations, evenly spread over the stream, the last at its end. Null takes up to five,
            as far as they score at most twice as many samples as the stream has. ``trainer.val_check_interval`` sets
            steps instead.
        baselines: Optimizers that are then trained on the same stream, each by its class or by the name or path of its
            configuration; a table compares the results.
        worst_samples: Number of samples, at most 12, that ``predictions.json`` shows by text or thumbnail: those with
            the largest loss. 0 keeps nothing of the data in a run's folder.
        resume_changed: Resume from a checkpoint although the data or the settings have changed since it was written.
    """

    root: str = "runs"
    save_interval: int = 200
    validations: int | None = None
    baselines: list[str] = field(default_factory=list)
    worst_samples: int = 12
    resume_changed: bool = False


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

    def folder(self, root: Path) -> Path:
        """Return the folder of all runs of this name below that of all runs."""
        return root / self.experiment / self.stem

    @property
    def stem(self) -> str:
        """Name of the folder of all runs of the same optimizer and seed."""
        return f"{self.optimizer}-seed{self.seed}"


def new_folder(root: Path, name: RunName) -> Path:
    """Create the run's folder: the first free ``version_k``; safe when runs start at the same time.

    Raises:
        ValueError: If it cannot be created.
    """
    parent = name.folder(root)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for k in itertools.count():
            with suppress(FileExistsError):
                (parent / f"version_{k}").mkdir()
                return parent / f"version_{k}"
    except OSError as error:
        raise ValueError(
            f"run.root: the folder {parent} cannot be created ({error.strerror}: {error.filename}); take another one"
        ) from error
    raise AssertionError


def last_folder(root: Path, name: RunName) -> Path:
    """Return the newest run of this name with a checkpoint.

    Raises:
        CheckpointError: If there is none.
    """
    for folder in _versions(root, name):
        if _has_checkpoint(folder):
            return folder
    parent = name.folder(root)
    raise CheckpointError(f"ckpt_path: there is no checkpoint to continue under {parent}; start without --ckpt_path")


def find_run(root: Path, name: RunName, matches: Callable[[Path], bool]) -> Path | None:
    """Return the newest run of this name whose configuration is that of the command; None where there is none.

    A run that was killed before its first checkpoint is such a run too, and one whose configuration was deleted.

    Args:
        root: Folder that holds all runs.
        name: The run's name.
        matches: Whether the configuration in a run's folder is that of the command.
    """
    begun = (folder for folder in _versions(root, name) if (folder / CONFIG).is_file() or _has_checkpoint(folder))
    return next(filter(matches, begun), None)


def resumed_folder(root: Path, name: RunName, matches: Callable[[Path], bool]) -> Path:
    """Return the run that ``--ckpt_path last`` resumes: that of :func:`find_run`, if there is one.

    Else it is a run that was killed before it wrote its configuration, and begins again in its folder; else the newest
    with a checkpoint, which is then refused for what differs.

    Raises:
        CheckpointError: If no run of this name was begun.
    """
    if found := find_run(root, name, matches):
        return found
    for folder in _versions(root, name):
        if not (folder / CONFIG).is_file() and not (folder / "checkpoints").exists():
            return folder
    return last_folder(root, name)


def _has_checkpoint(folder: Path) -> bool:
    return (folder / "checkpoints" / LAST).is_file()


def _versions(root: Path, name: RunName) -> list[Path]:
    """Return the folders of all runs of a name, the newest first."""
    found = [path for path in name.folder(root).glob("version_*") if re.fullmatch("[0-9]+", path.name[8:])]
    return sorted(found, key=lambda folder: int(folder.name[8:]), reverse=True)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)[:100].strip("-") or "run"  # file systems allow 255 bytes
