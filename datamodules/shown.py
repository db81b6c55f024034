"""Strings from data, as messages and tables show them: in one line, not too long, with nothing a terminal obeys."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 60
"""Characters that are shown of a name."""


def printable(text: str) -> str:
    r"""Return a text with escapes, such as ``\n`` or ``\u202e``, in place of characters that show nothing.

    These are control characters, marks of the direction of writing, line ends, and blanks other than the usual one.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def shown(name: object, most: int = LONGEST) -> str:
    """Return a name as text of at most ``most`` characters: both ends of a longer one."""
    text = str(name)
    whole = printable(text) if len(text) <= most else ""
    if text == "" or 0 < len(whole) <= most:
        return whole
    tail = most // 3
    return f"{printable(text[:most])[: most - tail - 3]}...{printable(text[-tail:])[-tail:]}"


def shown_list(names: Sequence[object], most: int = 10) -> str:
    """Return the first names, separated by commas, and dots where there are more."""
    return ", ".join(shown(name) for name in names[:most]) + (" ..." if len(names) > most else "")
