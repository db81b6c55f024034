"""Interpretation of the strings of an untyped column of labels: classes, or numbers.

The cells of a CSV file have no types. A label is the string that stands there, so that ``01`` and ``1`` are two
classes, unless the labels are to be numbers: then all of them must be. Blanks around a label do not count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .labels import likelihood_for
from .samples import DataError
from .shown import shown

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")

_OTHERWISE = re.compile(
    r"[$€£¥]?\s?[+-]?[$€£¥]?\s?(\d{1,3}([ ,.'\u2019_\xa0\u202f]\d{3})+|\d+)(?P<decimals>[.,]\d+)?\s?[%‰$€£¥]?"
    r"|\(\d[\d.,]*\)"
)
"""Numbers as people write them, with separators of thousands, a decimal comma, a percent sign or a currency."""

_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
"""Numbers whose comma or point may stand before decimals or after thousands."""

MISSING = frozenset({"", "#n/a", "n/a", "na", "nan", "-nan", "null", "none"})
"""What stands for a missing number, in lower case."""

MANY = 20
"""More different integers than this are taken for numbers, not for classes, if there is a label that is none."""


@dataclass(frozen=True)
class LabelText:
    """Interpretation of the strings of a column as labels.

    Args:
        task: Kind of task.
        classes: Names of the classes in their order; none leaves that to the labels.
        numbers: Whether the strings are numbers, so that "NA" stands for a missing one.
        decimal_comma: Whether a comma stands before the decimals.
        strip: Whether blanks around a label do not count.
        padded: How many labels of the training split have such blanks, other than around numbers.
    """

    task: str
    classes: tuple[str, ...] | None = None
    numbers: bool = False
    decimal_comma: bool = False
    strip: bool = True
    padded: int = 0

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
            DataError: If most labels are numbers, but not all, and nothing says what they are meant to be; or if it is
                open whether their commas or points stand before decimals.
        """
        values = pc.value_counts(table.data.column(column).combine_chunks())
        found = {str(each["values"]): each["counts"] for each in values.to_pylist() if each["values"] is not None}
        counts: Counter[str] = Counter()
        for value, count in found.items():
            counts[value.strip()] += count
        padded = sum(count for value, count in found.items() if value.strip() not in ("", value))
        present = [value for value in counts if value.lower() not in MISSING]
        comma = bool(present) and delimiter != "," and all(_DECIMAL_COMMA.fullmatch(value) for value in present)
        comma = comma and any("," in value for value in present)
        if task != "auto" and not likelihood_for(task).has_classes:
            _refuse_open(present, delimiter, column, title)
            return cls(task, numbers=True, decimal_comma=comma)
        given = None if classes is None else tuple(classes)
        if task != "auto" or given is not None:
            strip = all(name == name.strip() for name in given or ())
            return cls("classification" if task == "auto" else task, given, strip=strip, padded=padded * strip)
        if comma or (present and all(_NUMBER.fullmatch(value) for value in present)):
            if comma or not all(_INTEGER.fullmatch(value) for value in present):
                _refuse_open(present, delimiter, column, title)
                return cls("regression", numbers=True, decimal_comma=comma)
            return cls("classification", tuple(sorted(present, key=lambda value: (int(value), value))), numbers=True)
        _refuse_mixture(counts, present, column, title)
        return cls("classification", padded=padded)

    def apply(self, table: Dataset, column: str) -> Dataset:
        """Return a table with the labels as they are understood.

        They have no blanks around them; numbers have a decimal point, and a missing number is null.
        """
        labels = table.data.column(column)
        if self.strip:
            labels = pc.utf8_trim_whitespace(labels)
        if self.numbers:
            missing = pc.is_in(pc.utf8_lower(labels), pa.array(sorted(MISSING)))
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
            return labels.cast(kind)
        except pa.ArrowInvalid:
            continue
    return labels


def _refuse_open(present: Sequence[str], delimiter: str, column: str, title: str) -> None:
    """Refuse numbers such as 1,234 where nothing says whether it is a thousand or a little more than one.

    A comma is in question where it is no delimiter; a point where the delimiter is a semicolon, which spreadsheets
    write where decimals have a comma. Another number of decimals, or a thousand without a separator, decides.

    Raises:
        DataError: Naming one of them.
    """
    for mark, is_open in ((",", delimiter != ","), (".", delimiter == ";")):
        marked = [value for value in present if mark in value]
        whole = any(_INTEGER.fullmatch(value) and len(value.lstrip("+-")) > 3 for value in present)
        if is_open and marked and not whole and all(_ONE_GROUP.fullmatch(value) for value in marked):
            raise DataError(
                f"--data.label_column: {title}: column {column!r} has numbers such as {marked[0]!r}, of which nothing "
                f"says whether {mark!r} separates thousands or decimals; write them without separators of thousands "
                "and with a decimal point, in a file with another delimiter than ';'"
            )


def _refuse_mixture(counts: Mapping[str, int], present: Sequence[str], column: str, title: str) -> None:
    """Check that a column that is not all numbers is not meant to be.

    Raises:
        DataError: If numbers are the rule in it, naming a label that is none, or is none to a program.
    """
    plain = [value for value in present if _NUMBER.fullmatch(value)]
    numbers = [value for value in present if _NUMBER.fullmatch(value) or _OTHERWISE.fullmatch(value)]
    rows, all_rows = (sum(counts[value] for value in values) for values in (numbers, present))
    fractions = any(_is_fraction(value) for value in numbers)
    if 2 * rows <= all_rows or not (fractions or len(numbers) > MANY or 2 * len(numbers) > rows > 2):
        return
    odd = [value for value in present if not _NUMBER.fullmatch(value)]
    known = sum(counts[value] for value in plain)
    raise DataError(
        f"--data.task: {title}: column {column!r} has {known} numbers and {all_rows - known} labels that are none, "
        f"such as {shown(repr(odd[0]))}; correct them (digits and a decimal point alone, without separators or units), "
        "or set --data.task regression (with --data.on_bad_row skip to leave them out) or --data.task classification"
    )


def _is_fraction(value: str) -> bool:
    if _NUMBER.fullmatch(value):
        return not _INTEGER.fullmatch(value)
    found = _OTHERWISE.fullmatch(value)
    return bool(found and found["decimals"])
