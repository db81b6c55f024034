"""Where something stops to hold, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice

Holds = Callable[[float], bool]


def reaches(correct: Iterable[bool], samples: int, needed: int) -> bool:
    """Whether at least ``needed`` of the first ``samples`` are correct; looks at no more of them than it must."""
    hits = 0
    for seen, hit in enumerate(islice(correct, samples), 1):
        hits += hit
        if hits >= needed or hits + samples - seen < needed:
            break
    return hits >= needed


def bracket(holds: Holds, good: float, factor: float, steps: int) -> tuple[float, float] | None:
    """The last value that holds and the first that does not, on good, good * factor, good * factor^2, ...

    Args:
        holds: What is asked; true of ``good``, about which it is not asked.
        good: Where to start.
        factor: Above one to go up, below one to go down.
        steps: How many values to ask about.

    Returns:
        None where all of them hold.
    """
    for _ in range(steps):
        if not holds(good * factor):
            return good, good * factor
        good *= factor
    return None


def bisect(holds: Holds, good: float, bad: float, ratio: float) -> float:
    """A value that holds, next to the boundary to values that do not.

    Args:
        holds: What is asked, true on the side of ``good`` and false on that of ``bad``, whichever is the larger.
        good: A value that holds.
        bad: A value that does not.
        ratio: How far apart the two may be at the end, above one.

    Returns:
        A value that holds where one at most ``ratio`` times as far towards ``bad`` does not.
    """
    while max(good / bad, bad / good) > ratio:
        middle = math.sqrt(good * bad)
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good
