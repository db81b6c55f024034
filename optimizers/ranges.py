"""Ranges that options of optimizers share, and the check of an optimizer's options against them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Range(NamedTuple):
    """Range of the values that an option may have.

    Attributes:
        holds: Whether a value does.
        requirement: What it must do, for messages: ``lie in [0, 1)``.
    """

    holds: Callable[[Any], bool]
    requirement: str

    def judge(self, value: Any) -> tuple[bool, str]:
        """Return whether a value does, and what it must do: the end of an entry of :func:`check_arguments`."""
        try:
            return bool(self.holds(value)), self.requirement
        except TypeError:  # of another type
            return False, self.requirement


LEAST, LARGEST = 1e-30, 1e30
"""Bounds of positive numbers: they and their reciprocals are numbers in float32, with some room."""

MOST = 10**9
"""Largest count: it fits into the integers of torch."""

NOT_NEGATIVE = Range(lambda value: 0 <= value <= LARGEST, f"be zero or positive, and at most {LARGEST:g}")
POSITIVE = Range(lambda value: LEAST <= value <= LARGEST, f"be positive and finite, from {LEAST:g} to {LARGEST:g}")
ABOVE_ONE = Range(lambda value: value > 1, "be above 1")
UP_TO_ONE = Range(lambda value: 0 <= value <= 1, "lie in [0, 1]")
BELOW_ONE = Range(lambda value: 0 <= value < 1, "lie in [0, 1)")
ALL_BELOW_ONE = Range(lambda values: all(0 <= value < 1 for value in values), "lie in [0, 1)")


def count(least: int = 1, most: int = MOST) -> Range:
    """Return the range of a whole number from 0 or 1 on."""
    sign = f"be at least {least}" if least else "be zero or positive"
    return Range(lambda value: least <= value <= most, f"{sign}, and at most {most:,}")


COUNT, COUNT_OR_NONE = count(), count(0)

FIRST_ORDER = {
    **dict.fromkeys(("lr", "eps", "weight_decay", "lr_decay"), NOT_NEGATIVE),
    "momentum": BELOW_ONE,
    "betas": ALL_BELOW_ONE,
}
"""Ranges of the options that first-order rules have in common, by name."""


def check_arguments(name: str, arguments: Iterable[tuple[str, Any, bool, str]]) -> None:
    """Check that arguments are valid.

    Args:
        name: The optimizer's name; empty in a part of an optimizer, which puts its name before the message itself.
        arguments: Tuples (name, value, is_valid, requirement).

    Raises:
        ValueError: Naming the first that is not.
    """
    for argument, value, is_valid, requirement in arguments:
        if not is_valid:
            owner = f"{name}: " if name else ""
            raise ValueError(f"{owner}{argument} must {requirement}; got {value!r}")


def check_ranges(name: str, options: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Check the options of an optimizer, or of one of its groups, that have a range.

    Args:
        name: The optimizer's name.
        options: Its options by name.
        ranges: Ranges by name; those of other options are ignored.

    Raises:
        ValueError: Naming the first that is out of range.
    """
    known = {option: ranges[option] for option in options if option in ranges}
    check_arguments(name, [(o, options[o], *r.judge(options[o])) for o, r in known.items()])
