"""The folder of a service: its last snapshot, the log since then, and a lock."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtune.lightning_modules.checkpoints import AtomicCheckpointIO
from filtune.lightning_modules.locks import FolderLock
from filtune.lightning_modules.runs import CheckpointError, find_checkpoint

from ..learner import OnlineLearner
from ..storage import content
from .journal import Journal
from .known_ids import KnownIds
from .options import NewClasses, change_of

SNAPSHOT = "snapshot.ckpt"
"""Name of the snapshot, which :meth:`OnlineLearner.load` reads too."""

PREVIOUS = "previous.ckpt"
"""Name of the snapshot before, for the case that what the learner diverges from is in the last one."""

SERVING = "serving"
"""Entry of a snapshot with the position of the log and the ids."""


@dataclass
class State:
    """The state that a service continues from.

    Attributes:
        learner: The learner.
        ids: What it knows by id.
        position: Operations of the log that are in both.
        folder: Where it is kept.
        journal: The log.
        lock: Keeps other processes out of the folder.
        origin: Checksum of the checkpoint that the service began with.
        is_new: Whether the service begins here.
        asked: The options ``new_classes``, ``max_pending`` and those of the monitor from here on, for after the log was
            read.
    """

    learner: OnlineLearner
    ids: KnownIds
    position: int
    folder: Path
    journal: Journal
    lock: FolderLock
    origin: str
    is_new: bool
    asked: tuple[NewClasses | None, int | None, Mapping[str, Any] | None] = (None, None, None)

    def save(self) -> None:
        """Replace the snapshot by the state of now; the caller holds the learner's lock, or is its only thread.

        Nothing is changed by it, so that a run with snapshots is equal to one without. The state that a learner would
        rewind to is in it, too.

        Raises:
            DiskFull: If there is no space left; the snapshot before is still there.
        """
        serving = {"position": self.position, "origin": self.origin, **self.ids.state()}
        snapshot, previous = self.folder / SNAPSHOT, self.folder / PREVIOUS
        if snapshot.is_file():
            with suppress(OSError):  # where the file system has no links there is none
                previous.unlink(missing_ok=True)
                previous.hardlink_to(snapshot)
        AtomicCheckpointIO().save_checkpoint({**content(self.learner), SERVING: serving}, snapshot)


def open_state(
    ckpt_path: Path,
    folder: Path | None,
    own: Sequence[str] = (),
    *,
    new_classes: NewClasses | None = None,
    max_pending: int | None = None,
    monitor: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> State:
    """Return the state of a service: of its folder, or of a run's checkpoint where it begins.

    Args:
        ckpt_path: A run's folder or a checkpoint.
        folder: The folder; by default ``serving`` in the run's.
        own: Class paths outside filtune that the checkpoint may name.
        new_classes: ``refuse`` or ``add``; by default as it was.
        max_pending: Most samples that wait for their labels; by default as it was.
        monitor: Options of :meth:`LearnerMonitor.plan`; by default as they were.
        device: Where the model is.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or the folder is of another one.
        FolderInUse: If another process serves from the folder.
        ValueError: If the learner cannot take the options.
    """
    given = ckpt_path
    if folder is None:  # in a run's folder, which may be a stranger's; a folder that is named is the user's own
        folder = (given if given.is_dir() else given.parent) / "serving"
        for place in (folder, folder / "log", folder / SNAPSHOT):
            if place.is_symlink():
                raise CheckpointError(f"{place}: is a symbolic link, and would be written through; name a --state_dir")
    is_new = not (folder / SNAPSHOT).is_file()
    checkpoint = find_checkpoint(given)  # fails before the folder is created
    if is_new and not checkpoint.is_file():
        raise CheckpointError(f"ckpt_path: there is no checkpoint {checkpoint}")
    lock = FolderLock(folder, f"--state_dir {folder}", "name another --state_dir")
    lock.acquire()
    try:
        origin = _checksum(checkpoint) if checkpoint.is_file() else ""
        journal = Journal(folder / "log")
        if is_new and journal.segments():
            raise CheckpointError(
                f"{folder / SNAPSHOT}: missing, though there is a log; restore it from a backup, or name another "
                "--state_dir"
            )
        source = checkpoint if is_new else folder / SNAPSHOT
        asked = (new_classes, max_pending, monitor)
        bounds = asked[:2] if is_new else (None, None)  # the log is read under the options that it was written under
        learner = OnlineLearner.from_checkpoint(
            source, own=own, device=device, new_classes=bounds[0], max_pending=bounds[1]
        )
        change_of(learner, *asked)  # what cannot be is refused before the log is read
        state = State(learner, KnownIds(learner.pending.most), 0, folder, journal, lock, origin, is_new, asked)
        saved = AtomicCheckpointIO().load_checkpoint(source).get(SERVING)
        if is_new:
            _begin(state, saved)
        else:
            _continue(state, saved)
    except BaseException:
        lock.release()
        raise
    return state


def _begin(state: State, saved: dict[str, Any] | None) -> None:
    """Begin with what a learner that was saved, or another service, knows by id."""
    waiting = [row[0] for row in state.learner.pending.state()["waiting"]]
    state.ids.load({"waiting": waiting, "learned": (saved or {}).get("learned", [])})
    state.save()


def _continue(state: State, saved: dict[str, Any] | None) -> None:
    if saved is None:
        raise CheckpointError(f"{state.folder / SNAPSHOT}: no service wrote it; name another --state_dir")
    if state.origin and saved["origin"] != state.origin:
        raise CheckpointError(
            f"--state_dir {state.folder}: it holds what was learned from another checkpoint; name another --state_dir, "
            "or the checkpoint that it began with"
        )
    state.position, state.origin = saved["position"], saved["origin"]
    state.ids.load(saved)


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
