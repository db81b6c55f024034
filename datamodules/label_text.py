"""What the strings of an untyped column of labels mean: classes, or numbers.

The cells of a CSV file have no types. A label is the string that stands there, so that ``01`` and ``1`` are two
classes, unless the labels are to be numbers: then all of them must be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .labels import likelihood_for
from .samples import DataError

_INTEGER = re.compile(r"\s*[+-]?\d+\s*")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?inf\s*", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?([eE][+-]?\d+)?\s*")

MISSING = frozenset({"", "#n/a", "n/a", "na", "nan", "-nan", "null", "none"})
"""What stands for a missing number, in lower case."""

MANY = 20
"""More different integers than this are taken for numbers, not for classes, if there is a label that is none."""


@dataclass(frozen=True)
class LabelText:
    """How the strings of a column become labels.

    Args:
        task: Kind of task.
        classes: Names of the classes in their order; none leaves that to the labels.
        numbers: Whether the strings are numbers, so that "NA" stands for a missing one.
        decimal_comma: Whether a comma stands before the decimals.
    """

    task: str
    classes: tuple[str, ...] | None = None
    numbers: bool = False
    decimal_comma: bool = False

    @classmethod
    def infer(
        cls, table: Dataset, column: str, task: str, classes: Sequence[str] | None, delimiter: str, title: str
    ) -> LabelText:
        """Return what the labels of a table are.

        Args:
            table: The training split.
            column: The column of labels, strings.
            task: The kind of task as given, or ``auto``.
            classes: The classes as given.
            delimiter: What separates the cells; where it is no comma, a comma in a number is one before decimals.
            title: The source, for messages.

        Raises:
            DataError: If most labels are numbers, but not all, and nothing says what they are meant to be.
        """
        values = pc.value_counts(table.data.column(column).combine_chunks())
        counts = {str(each["values"]): each["counts"] for each in values.to_pylist() if each["values"] is not None}
        present = [value for value in counts if value.strip().lower() not in MISSING]
        comma = bool(present) and delimiter != "," and all(_DECIMAL_COMMA.fullmatch(value) for value in present)
        comma = comma and any("," in value for value in present)
        if task != "auto" and not likelihood_for(task).has_classes:
            return cls(task, numbers=True, decimal_comma=comma)
        given = None if classes is None else tuple(classes)
        if task != "auto" or given is not None:
            return cls("classification" if task == "auto" else task, given)
        if comma or (present and all(_NUMBER.fullmatch(value) for value in present)):
            if comma or not all(_INTEGER.fullmatch(value) for value in present):
                return cls("regression", numbers=True, decimal_comma=comma)
            return cls("classification", tuple(sorted(present, key=lambda value: (int(value), value))), numbers=True)
        _refuse_mixture(counts, present, column, title)
        return cls("classification")

    def apply(self, table: Dataset, column: str) -> Dataset:
        """Return a table with the labels as they are understood: numbers with a decimal point, missing ones as null."""
        if not self.numbers:
            return table
        labels = table.data.column(column)
        missing = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(labels)), pa.array(sorted(MISSING)))
        labels = pc.if_else(missing, pa.scalar(None, pa.string()), labels)
        if self.decimal_comma:
            labels = pc.replace_substring(labels, ",", ".")
        if self.classes is None:
            labels = _as_numbers(labels)
        whole = table.data.table
        return Dataset(whole.set_column(whole.column_names.index(column), column, labels))


def _as_numbers(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return strings as numbers where all of them are."""
    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.utf8_trim_whitespace(labels).cast(kind)
        except pa.ArrowInvalid:
            continue
    return labels


def _refuse_mixture(counts: dict[str, int], present: Sequence[str], column: str, title: str) -> None:
    """Check that a column that is not all numbers is not meant to be.

    Raises:
        DataError: If numbers are the rule in it, naming a label that is none.
    """
    numbers = [value for value in present if _NUMBER.fullmatch(value)]
    rows, all_rows = (sum(counts[value] for value in values) for values in (numbers, present))
    fractions = any(not _INTEGER.fullmatch(value) for value in numbers)
    if 2 * rows <= all_rows or not (fractions or len(numbers) > MANY or 2 * len(numbers) > rows > 2):
        return
    odd = [value for value in present if not _NUMBER.fullmatch(value)]
    raise DataError(
        f"--data.task: {title}: column {column!r} has {rows} numbers and {all_rows - rows} labels that are none, such "
        f"as {odd[0][:50]!r}; correct them, or set --data.task regression (with --data.on_bad_row skip to leave them "
        "out) or --data.task classification"
    )
