"""What was read of the data, in one line and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .shown import printable, shown_list


@dataclass(frozen=True)
class DataReport:
    """Rows, labels and validation of a data module.

    Args:
        source: Where the data is from.
        rows: Rows of the split that the stream is of.
        used: Samples of the stream.
        skipped: How many bad rows were left out, by reason.
        kind: Kind of task.
        classes: Names of the classes.
        range: Least and greatest target, where targets are numbers.
        validation_rows: Samples for validation.
        validation: Where these are from, or why there are none; empty where nothing is trained.
        notes: What else is to be said, such as files that were not read.
    """

    source: str
    rows: int
    used: int
    skipped: dict[str, int]
    kind: str
    classes: Sequence[str]
    range: tuple[float, float] | None
    validation_rows: int
    validation: str
    notes: Sequence[str] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for ``summary.json``."""
        labels: dict[str, Any] = {"range": list(self.range)} if self.range else {"classes": list(self.classes)}
        return {
            "source": self.source,
            "rows": self.rows,
            "rows_used": self.used,
            "rows_skipped": dict(self.skipped),
            "kind": self.kind,
            **labels,
            "rows_held_out": self.validation_rows,
            "held_out": self.validation,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return one line."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        skipped = f"{sum(self.skipped.values())} skipped ({reasons})" if self.skipped else "none skipped"
        if self.range:
            labels = f"{self.kind}, values from {self.range[0]:g} to {self.range[1]:g}"
        elif not self.classes:
            labels = self.kind
        else:
            labels = f"{self.kind}, {len(self.classes)} classes ({shown_list(self.classes)})"
        held_out = [f"{self.validation_rows} rows for validation ({self.validation})"] if self.validation else []
        parts = [f"{self.rows} rows, {self.used} used, {skipped}", labels, *held_out, *self.notes]
        return printable(" ".join(f"data {self.source}: {'; '.join(parts)}".split()))
