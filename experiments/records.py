"""Where records of runs lie: one JSON a run, written whole or not at all, by one command at a time."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT = 1
"""Format of records and manifests."""


class Store:
    """A folder of records, manifests and run folders.

    Args:
        root: The folder; made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broken: list[Path] = []

    def path(self, key: str) -> Path:
        """Where a record lies."""
        return self.root / "records" / f"{key}.json"

    def runs(self, key: str) -> Path:
        """Where the folders of a run lie, one an attempt that could not be continued."""
        return self.root / "runs" / key

    def read(self, key: str) -> dict[str, Any] | None:
        """A record; none where there is none, or only a part of one, which ``broken`` then lists."""
        path = self.path(key)
        try:
            record = json.loads(path.read_text())
            if record["format"] == FORMAT and record["key"] == key:
                return record
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            pass
        if path not in self.broken:
            self.broken.append(path)
        return None

    def write(self, record: dict[str, Any]) -> None:
        """Keep a record."""
        write_json(self.path(record["key"]), record)

    def read_manifest(self, name: str) -> dict[str, Any] | None:
        """What says which records belong to which cells; none where there is none, or only a part of one."""
        try:
            return json.loads((self.root / "manifests" / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write_manifest(self, name: str, manifest: dict[str, Any]) -> Path:
        """Keep what says which records belong to which cells."""
        path = self.root / "manifests" / f"{name}.json"
        write_json(path, manifest)
        return path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other command write here meanwhile.

        Raises:
            ValueError: If another one does.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                other = file.read().strip() or "?"
                raise ValueError(
                    f"--root {self.root}: another command (process {other}) runs into this folder; wait for it, or "
                    "name another folder"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


_LEAVES = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")


def _one_line(leaf: re.Match) -> str:
    """A list of plain values on one line, for curves have hundreds."""
    return "[" + re.sub(r"\n\s+", " ", leaf[1]) + "]"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w") as file:
            file.write(_LEAVES.sub(_one_line, json.dumps(content, indent=1)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
