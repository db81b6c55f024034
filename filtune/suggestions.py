"""Similar names for one that does not exist. Every folder may import this file: it needs the standard library alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MOST = 40
"""Most names that are listed if none is similar."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return at most four similar names, the most similar first.

    Names are similar if they differ by case or by a few letters, or if one abbreviates the other: ``learning_rate`` and
    ``lr``.
    """
    names = sorted(known)
    lower: dict[str, list[str]] = {}
    for found in names:
        lower.setdefault(found.lower(), []).append(found)
    same = lower.get(name.lower(), [])
    ratios = {key: difflib.SequenceMatcher(None, name.lower(), key).ratio() for key in lower}
    best = max(ratios.values(), default=0.0)
    close = sorted((key for key in lower if ratios[key] >= max(0.6, best - 0.1)), key=lambda key: -ratios[key])
    initials = "".join(word[:1] for word in re.split(r"[_\W]+", name.lower()))
    short = lower.get(initials, []) if len(initials) > 1 else []
    return list(dict.fromkeys([*same, *(x for key in close for x in lower[key]), *short]))[:4]


def did_you_mean(near: Iterable[str]) -> str:
    """Return the phrase ``did you mean A or B?``, or an empty text without names."""
    names = " or ".join(near)
    return f"did you mean {names}?" if names else ""


def suggest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a phrase that suggests similar names, or lists all.

    Args:
        name: The name as written.
        known: The names that exist.
        otherwise: The phrase if no name is similar and there are too many to list.
    """
    names = sorted(known)
    everything = otherwise if otherwise and len(names) > MOST else f"there are {', '.join(names)}"
    return did_you_mean(nearest(name, names)) or everything
