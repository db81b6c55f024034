"""Errors of backbones: what the libraries raise while a model is built becomes one line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError, safe_open

from ..trust import ForeignClassError

REMEDY = "correct the folder or copy it again, or name another model"
_LONGEST = 300


class BackboneError(ValueError):
    """A backbone cannot be built; the message is one line with the option, the cause and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@contextmanager
def library_errors(name: str, part: str = "", remedy: str = REMEDY) -> Iterator[None]:
    """Turn whatever a library raises while it loads a model into one line.

    Configurations, tokenizers and weights come from anywhere, and a value of the wrong type in one of them may raise
    any exception, far from the place where it was read.

    Args:
        name: The model: a hub id, a folder, or a file of weights.
        part: What is loaded, for the message.
        remedy: What to do about it.

    Raises:
        BackboneError: Naming the damaged file where there is one, else the part, with the library's first line.
    """
    try:
        yield
    except (BackboneError, ForeignClassError):
        raise
    except Exception as error:
        if damage := damaged_file(Path(os.path.expanduser(name))):
            raise BackboneError(f"model.backbone.name: {damage}; copy it again, or name another model") from error
        cause = f"{part}: {_reason(error)}" if part else _reason(error)
        raise BackboneError(f"model.backbone.name: {name!r} cannot be loaded ({cause}); {remedy}") from error


def one_line(error: BaseException) -> str:
    """Return an exception's message in one line, preceded by its type where it is a single word."""
    said = " ".join(str(error).split())
    return said if " " in said else f"{type(error).__name__} {said}".strip()


def damaged_file(path: Path) -> str | None:
    """Return which file of a model's folder is damaged, and how; None where all can be opened.

    Args:
        path: The folder, or a file in it.
    """
    folder = path.parent if os.path.isfile(path) else path
    for file in sorted(folder.glob("*.json")) if os.path.isdir(folder) else ():
        if "config" not in file.name and file.name not in ("tokenizer.json", "special_tokens_map.json"):
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            return f"{file} is damaged: {one_line(error)[:_LONGEST]}"
        if not isinstance(content, dict):
            return f"{file} is damaged: it must hold an object, not a {type(content).__name__}"
    for file in sorted(folder.glob("*.safetensors")) if os.path.isdir(folder) else ():
        try:
            with safe_open(file, framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            return f"{file} is damaged or cut short: {one_line(error)[:_LONGEST]}"
    return None


def _reason(error: Exception) -> str:
    """Return the first line of a library's message, preceded by its type where it is no sentence."""
    if isinstance(error, UnpicklingError):
        return "the weights are a pickle of more than tensors, which is not loaded; take safetensors"
    said = str(error).strip().splitlines()
    # a line that ends in a colon announces the next
    first = " ".join(" ".join(said[: 2 if said[:1] and said[0].rstrip().endswith(":") else 1]).split())
    if isinstance(error, (OSError, ValueError, RuntimeError)) and " " in first:
        return first[:_LONGEST]
    return f"{type(error).__name__}: {first}"[:_LONGEST] if first else type(error).__name__
