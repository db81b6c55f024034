"""Columns by their names, also where the header has blanks around them."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import Dataset

from .samples import DataError


def with_columns(table: Dataset, wanted: Mapping[str, str], title: str) -> Dataset:
    """Return a table whose columns have the names that are asked for.

    A name is that of one column: exactly, or else without the blanks around the column's own name.

    Args:
        table: The table.
        wanted: The columns asked for, with the option of the data module that names each.
        title: The source, for messages.

    Raises:
        DataError: If there is no such column, or more than one.
    """
    for column, option in wanted.items():
        if column in table.column_names:
            continue
        similar = [name for name in table.column_names if name.strip() == column.strip()]
        if len(similar) != 1:
            names = ", ".join(repr(name) if name != name.strip() or not name else name for name in table.column_names)
            twice = [name for name in table.column_names if name.startswith(f"{column} (column ")]
            wrong = f"has the column {column!r} more than once" if twice else f"has no column {column!r}"
            raise DataError(f"--data.{option}: {title} {wrong}; choose of {names}")
        table = table.rename_column(similar[0], column)
    return table
