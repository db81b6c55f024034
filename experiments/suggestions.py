"""The names that are near to one that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MOST = 40
"""Most names that are listed where none is near."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that are near to one, the nearest first, at most four of them.

    Near is what differs by case, by a few letters, or abbreviates: ``learning_rate`` is near to ``lr``.
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


def suggest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return words about the names that are near, else about all there are.

    Args:
        name: What was written.
        known: What there is.
        otherwise: What to say where nothing is near and there is much.
    """
    names = sorted(known)
    if near := nearest(name, names):
        return f"did you mean {' or '.join(near)}?"
    return otherwise if otherwise and len(names) > MOST else f"there are {', '.join(names)}"
