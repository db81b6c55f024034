"""The files in a run's folder, checked before a command writes into it again.

The folder may be damaged, and it may come from a stranger. Nothing in it is repaired or replaced silently: a damaged
file is refused with its name and what happens when it is deleted, and a link that leads out of the folder is refused.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from .atomic import atomic_write
from .event_files import EVENTS, SIZES, check_sizes, records, stated_sizes, sync
from .integrity import DamagedFile, check_archive, read_json, read_yaml, sealed
from .legacy import translate
from .locks import NAME as LOCK
from .runs import CONFIG, EVENT_SIZES, LAST, PREDICTIONS, SUMMARY

BASELINES = "baselines.json"
"""File in a run's folder that names the folders of its baselines."""

JOB = "slurm_job"
"""File in a run's folder with the number of the SLURM job that runs it."""


class MisplacedFile(ValueError):
    """Error about a file in a run's folder that is not written to: a link that leads out of it, or a special file."""


class _CutEvents(DamagedFile):
    """An event file is shorter than another file states."""


def check_links(folder: Path) -> None:
    """Check that what a command writes into a run's folder stays there; the folders above may be links.

    Raises:
        MisplacedFile: If the folder or something in it is a link that leads out of it, or no regular file; names it.
    """
    if folder.is_symlink():
        raise MisplacedFile(
            f"{folder}: is a symbolic link, and a run is not written through one; put the run's folder itself there, "
            "or make --run.root the link"
        )
    home = os.path.realpath(folder)
    for path in _entries(folder):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) and os.path.commonpath([home, os.path.realpath(path)]) != home:
            raise MisplacedFile(
                f"{path}: is a symbolic link that leads out of the run's folder, to {os.path.realpath(path)}; remove "
                "it, or put there what it stands for"
            )
        if stat.S_ISLNK(mode) and _is_loop(path):
            raise MisplacedFile(f"{path}: is a symbolic link that leads back to itself; remove it")
        if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise MisplacedFile(f"{path}: is neither a file nor a folder; remove it")
    checkpoints = folder / "checkpoints"
    for path in [*created_files(folder), checkpoints / LAST]:
        if path.is_dir():
            raise MisplacedFile(f"{path}: is a folder, where there should be a file; remove it")
    if checkpoints.is_file():
        raise MisplacedFile(f"{checkpoints}: is a file, where there should be a folder; remove it")


def _is_loop(link: Path) -> bool:
    """Return whether a symbolic link leads back to itself."""
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def check_files(folder: Path) -> None:
    """Check all files that filtune has written into a run's folder, but the checkpoint that is loaded next.

    Raises:
        DamagedFile: If one is damaged; names it, and what happens when it is deleted.
        OSError: If one cannot be read.
    """
    for path in _entries(folder):
        name = path.relative_to(folder).as_posix()
        for pattern, check, remedy in _KINDS:
            if fnmatchcase(name, pattern) and name != f"checkpoints/{LAST}" and path.name[0] != "." and path.is_file():
                try:
                    check(path)
                except _CutEvents:  # names another file, and what to do with that
                    raise
                except DamagedFile as error:
                    text = str(error) if str(path) in str(error) else f"{path}: {error}"
                    raise DamagedFile(f"{text}. To resume, {remedy}") from error


def keep_event_sizes(folder: Path) -> None:
    """Write the event files of a folder to disk, and keep their sizes, before a checkpoint that counts on them.

    They are not part of the checkpoint, for they differ where a run was resumed: its event files are others.
    """
    sizes = sync(folder)
    if sizes:
        with atomic_write(folder / EVENT_SIZES) as file:
            file.write(json.dumps(sealed({SIZES: sizes})) + "\n")


def _check_event_sizes(folder: Path, sizes: dict[str, int]) -> None:
    """Check that event files have at least the sizes that they once had; warn of those that are missing.

    Raises:
        DamagedFile: If one was cut short.
    """
    try:
        missing = check_sizes(folder, sizes)
    except DamagedFile as error:
        raise _CutEvents(f"{error}. To resume, {_EVENTS_REMEDY}") from error
    if missing:
        rank_zero_warn(f"{folder / missing[0]}: is missing, and so are the curves that were in it")


def created_files(folder: Path) -> list[Path]:
    """Return the files beside the checkpoints that filtune and its TensorBoard logger write into a run's folder."""
    names = (CONFIG, EVENT_SIZES, SUMMARY, PREDICTIONS, BASELINES, JOB, EVENTS, LOCK, "hparams.yaml")
    return [path for name in names for path in folder.glob(name)] if os.path.isdir(folder) else []


def remove_created(folder: Path, found: Collection[Path] = ()) -> None:
    """Remove what filtune has written into the folder of a run that failed, and the folder if that leaves it empty.

    Args:
        folder: The folder.
        found: Files that were there before.
    """
    for path in set(created_files(folder)) - set(found):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # it is not empty, or gone
        folder.rmdir()


def _entries(folder: Path) -> Iterator[Path]:
    """Yield all files, folders and links below a folder, in order; no link is followed."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(place) / name for name in sorted([*folders, *files]))


def _check_config(path: Path) -> None:
    try:
        config = translate(read_yaml(path))
        if not all(isinstance(config[section], dict) for section in ("model", "data", "optimizer")):
            raise TypeError(path)
    except (TypeError, AttributeError, KeyError) as error:
        raise DamagedFile(f"{path}: damaged, or no configuration of a run") from error


def _check_sizes(path: Path) -> None:
    _check_event_sizes(path.parent, stated_sizes(read_json(path)))


def _check_events(path: Path) -> None:
    for _ in records(path):
        pass


_EVENTS_REMEDY = "move it away: the run goes on without the curves that are in it"

_KINDS: tuple[tuple[str, Callable[[Path], Any], str], ...] = (
    (CONFIG, _check_config, "delete it: it is written again from the options of the command"),
    (EVENT_SIZES, _check_sizes, "delete it: each event file is then checked by itself"),
    (SUMMARY, _check_sizes, "delete it: it is written again when the run ends"),
    (PREDICTIONS, read_json, "delete it: it is written again when the run ends"),
    (
        BASELINES,
        lambda path: read_baselines(path.parent),
        "delete it: the runs of the baselines are then found by their configuration",
    ),
    (JOB, lambda path: read_job(path.parent), "delete it, and resume with --ckpt_path last"),
    (EVENTS, _check_events, _EVENTS_REMEDY),
    ("checkpoints/*.ckpt", check_archive, f"delete it: the run goes on from checkpoints/{LAST}"),
)
"""By the pattern of a file's path in the folder: how it is checked, and what can be done where it is damaged."""


def read_baselines(folder: Path) -> dict[str, Path]:
    """Return the folders of a run's baselines, by name; empty where none was begun.

    Raises:
        DamagedFile: If the file that names them is damaged, or names a folder that is not beside the run's.
    """
    try:
        names = read_json(folder / BASELINES)
    except FileNotFoundError:
        return {}
    places = {baseline: Path(os.path.normpath(folder / str(name))) for baseline, name in names.items()}
    for baseline, place in places.items():
        if place.resolve().parent.parent != folder.resolve().parent.parent:
            raise DamagedFile(f"{folder / BASELINES}: {baseline} is not in a folder beside the run's, but in {place}")
    return places


def write_job(folder: Path, job: str) -> None:
    """Write the number of the SLURM job that runs in a folder."""
    with atomic_write(folder / JOB) as file:
        file.write(json.dumps(sealed({"job": job})) + "\n")


def read_job(folder: Path) -> str | None:
    """Return the number of the SLURM job that ran in a folder; None where there was none.

    Raises:
        DamagedFile: If the file that says so is damaged.
    """
    path = folder / JOB
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    if text.replace(b"_", b"").isdigit():  # as an earlier release wrote it
        return text.decode()
    job = read_json(path).get("job")
    if not isinstance(job, str):
        raise DamagedFile(f"{path}: damaged: it has no number of a job")
    return job
