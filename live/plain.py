"""Validation of single values from outside: ids, texts and labels, before they are kept or written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

MOST_BITS = 1024
"""Most bits of an integer that is kept: a checkpoint that is read without pickle has none above 2,039."""

MOST_SHOWN = 60
"""Most characters of a value in a message."""

HALF_PAIR = "holds half a surrogate pair, which is no character"


def is_text(value: str) -> bool:
    """Return whether a string is text in Unicode: half of a surrogate pair, as JSON may escape it, is none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_id(id: Any) -> None:
    """Check what a sample is known by.

    Raises:
        ValueError: If it is neither a text nor an integer, is blank, or cannot be kept.
    """
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise ValueError(f"id: a text or an integer is needed, got {shortened(id)}")
    if isinstance(id, str) and not id.strip():  # of an empty field, which would make all samples without id the same
        raise ValueError(f"id: {id[:MOST_SHOWN]!r} is blank; leave it out, or give every sample one of its own")
    if fault := fault_of(id):
        raise ValueError(f"id: {shortened(id)} {fault}")


def fault_of(value: Any) -> str:
    """Return why a text or an integer cannot be kept; nothing where it can."""
    if isinstance(value, str) and not is_text(value):
        return HALF_PAIR
    return f"has more than {MOST_BITS} bits" if isinstance(value, int) and value.bit_length() > MOST_BITS else ""


def check_class(name: str, value: Any) -> None:
    """Check that a plain label can be a class.

    Args:
        name: What a message begins with.
        value: The label.

    Raises:
        ValueError: If it is a list or a dict, or cannot be kept.
    """
    if isinstance(value, Mapping) or (isinstance(value, Iterable) and not isinstance(value, str | bytes)):
        kind = "dict" if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f"{name}: one class is needed, not a {kind}: {shortened(value)}")
    if fault := fault_of(value):
        raise ValueError(f"{name}: {shortened(value)} {fault}")


def finite(value: Any, is_utf8: bool = False) -> Any:
    """Return a value with None in place of every number that is not finite, which JSON has none of.

    Args:
        value: The value, of dicts and lists as deep as it is.
        is_utf8: Whether half of a surrogate pair, which UTF-8 has none of, becomes a question mark.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if is_utf8 else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {finite(key, is_utf8): finite(each, is_utf8) for key, each in value.items()}
    return [finite(each, is_utf8) for each in value] if isinstance(value, list | tuple) else value


def json_text(value: Any, ensure_ascii: bool = True) -> str:
    """Return a value as strict JSON; see :func:`finite`."""
    return json.dumps(finite(value), ensure_ascii=ensure_ascii, allow_nan=False)


def shortened(value: Any) -> str:
    """Return a value for a message: of a long one the start, and what it is."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:  # whose digits Python may refuse to write
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[:40]}... ({type(value).__name__})"
