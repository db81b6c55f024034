"""The files of ``filtune learn``: none has two parts in one command, and a state belongs to one command at a time."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

from filtune.lightning_modules.locks import FolderLock
from filtune.lightning_modules.runs import CheckpointError

from .sources import is_file_address

_OTHER_CHECKPOINT = "take another checkpoint, or start a new run without --ckpt_path"
_OTHER_STATE = "name another --state"


def check_places(options: argparse.Namespace) -> None:
    """Check that ``--input``, ``--output`` and ``--state`` are files of their own; nothing is opened.

    Links are followed, and of ``-`` it is the file that standard input or output is directed to: answers that are
    appended to the input would be read as samples, without an end.

    Raises:
        ValueError: If two of them are the same file; names both.
    """
    places: dict[str, Path | int | None] = {"--state": options.state}
    if options.webhook:
        places["--webhook (its file of alarms)"] = outbox_of(options.state)
    for name, address, stream in (("--input", options.input, sys.stdin), ("--output", options.output, sys.stdout)):
        if address == "-":
            places[name] = _descriptor(stream)
        elif is_file_address(address):
            places[name] = Path(address)
    for (first, one), (second, two) in combinations(places.items(), 2):
        if one is not None and two is not None and _is_same(one, two):
            shown = two if isinstance(two, Path) else one if isinstance(one, Path) else "standard input"
            raise ValueError(f"{second} and {first}: both are the file {shown}; name a file of its own for each")


def outbox_of(state: Path) -> Path:
    """Return the file in which alarms for a webhook wait."""
    return state.with_name(f"{state.name}.webhook.jsonl")


def lock_of(state: Path) -> FolderLock:
    """Return the lock of a state, which a command holds from before it reads it until its end."""
    place = state.resolve()
    return FolderLock(place.parent, f"--state {state}", "name another --state", file=place.name)


@contextmanager
def naming_state(state: Path) -> Iterator[None]:
    """Let an error of the checkpoint name the option ``--state``.

    Raises:
        ValueError: If the block raises a :class:`CheckpointError`.
    """
    try:
        yield
    except CheckpointError as error:
        reason = str(error).removeprefix("ckpt_path: ").replace(_OTHER_CHECKPOINT, _OTHER_STATE)
        where = "" if str(state) in reason else f"{state}: "
        raise ValueError(f"--state: {where}{reason}{'' if '; ' in reason else f'; {_OTHER_STATE}'}") from error


def _descriptor(stream: object) -> int | None:
    """Return the descriptor of a standard stream; None where it has none, or is closed."""
    try:
        return stream.fileno()  # type: ignore[attr-defined, no-any-return]
    except (AttributeError, OSError, ValueError):
        return None


def _is_same(one: Path | int, two: Path | int) -> bool:
    """Return whether two places are one file, also where it is not there yet; a terminal or /dev/null is none."""
    try:
        found = os.stat(one), os.stat(two)
    except OSError:
        return not isinstance(one, int) and not isinstance(two, int) and one.resolve() == two.resolve()
    kinds = stat.S_ISREG(found[0].st_mode) or stat.S_ISFIFO(found[0].st_mode)
    return kinds and os.path.samestat(*found)
