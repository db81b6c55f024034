"""Local folders of backbones: files that a stranger may have written, of which no code is executed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import BackboneError

CODE = {"auto_map": "code of its own", "auto_mapping": "a class to import", "megatron_config": "a module to import"}
"""Entries of configurations by which transformers or PEFT import what they name."""


def refuse_special_files(name: str) -> None:
    """Refuse a folder with a pipe, a socket or a device in it: whoever reads it may wait for ever.

    Raises:
        BackboneError: Naming the file.
    """
    for file in sorted(Path(name).iterdir()) if os.path.isdir(name) else ():
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise BackboneError(f"model.backbone.name: {file} is no regular file; remove it")


def refuse_code(name: str) -> None:
    """Refuse a folder whose configurations name code.

    Of a hub id, the libraries' own code is used or none: ``trust_remote_code`` is never set.

    Args:
        name: A local folder; a hub id is let through.

    Raises:
        BackboneError: Naming the file, the entry and the remedy.
    """
    folder = Path(name)
    for file in sorted(folder.glob("*.json")) if os.path.isdir(folder) else ():
        if "config" not in file.name:
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError):  # of which the library that reads it says what is wrong
            continue
        for entry, what in _code(content):
            raise BackboneError(
                f"model.backbone.name: {file} names {what} ({entry}), which is never executed; where the library knows "
                f"the architecture, remove the entry {entry}, else name another model"
            )


def _code(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield the entries that name code, and what each names."""
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if name in CODE and value:
            yield name, CODE[name]
        if name.endswith("_implementation") and isinstance(value, str) and "/" in value:
            yield name, "a kernel to download"
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _code(value)
