"""A learner under the interfaces of other libraries, each in a file that imports its library when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def library(name: str, extra: str) -> Any:
    """Return a module of an optional library.

    Raises:
        ImportError: If it is not installed; in one line, with the extra that brings it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name.partition('.')[0]} is needed: pip install 'filtune[{extra}]' ({error})") from None
