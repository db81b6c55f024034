"""A folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "README.md"
"""The file by which a folder is known for an export, with one of ``WEIGHTS``."""

WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


def check_target(target: Path, overwrite: bool) -> None:
    """See that an export may go there.

    Raises:
        ValueError: If something is there already.
    """
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise ValueError(f"--to: {target} is not empty; name another folder, or replace it with --overwrite")
        if not ((target / MARK).is_file() and any((target / name).is_file() for name in WEIGHTS)):
            raise ValueError(f"--overwrite: {target} is not an earlier export, and is left alone; name another folder")
    elif target.exists() and not target.is_dir():
        raise ValueError(f"--to: {target} is a file; name a folder")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place in the end, or is removed on an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
            os.rename(target, old / "old")
            os.rename(temporary, target)
            shutil.rmtree(old)
        else:
            os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
