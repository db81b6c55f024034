"""What can be wrong with data, said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class DataError(ValueError):
    """The data, or an argument about it, is wrong; the message is one line that names the culprit and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be learned from.

    Args:
        row: Its index in the split, from 0.
        column: The column at fault.
        reason: What is wrong, in words that other rows may share.
        detail: What was found in this row.
    """

    row: int
    column: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class SplitRef:
    """A split of a source, as messages name it.

    Args:
        source: The source, with its configuration.
        split: The split.
        remedy: What to do about a bad row.
    """

    source: str
    split: str
    remedy: str = "correct it, or leave bad rows out with --data.on_bad_row skip"

    def error(self, faults: Sequence[BadRow]) -> DataError:
        """The error that names the first of the faults, counts the other rows, and says what to do."""
        first = min(faults, key=lambda fault: fault.row)
        others = len({fault.row for fault in faults}) - 1
        detail = f": {first.detail[:100]}" if first.detail else ""
        more = f" (and {others} more bad row{'s' if others > 1 else ''})" if others else ""
        return DataError(
            f"{self.source}, split {self.split!r}, row {first.row} (from 0), column {first.column!r}: "
            f"{first.reason}{detail}{more}; {self.remedy}"
        )
