"""Columns by their names, also where the header has blanks around them, and rows that are the header once more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from .samples import DataError
from .shown import shown, shown_list


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
            known = [repr(name) if name != name.strip() or not name else name for name in table.column_names]
            twice = [name for name in table.column_names if name.startswith(f"{column} (column ")]
            name = shown(repr(column))
            wrong = f"has the column {name} more than once" if twice else f"has no column {name}"
            raise DataError(f"--data.{option}: {title} {wrong}; choose from {shown_list(known, 30)}")
        table = table.rename_column(similar[0], column)
    return table


def repeated_headers(table: Dataset) -> np.ndarray:
    """Return the rows of a delimited file that are its header once more, as in files that were joined, (N,).

    Of a single column nothing is: its name may be a value.
    """
    found = np.full(len(table), len(table.column_names) > 1)
    for name in table.column_names:
        if found.any():
            cells = pc.utf8_trim_whitespace(table.data.column(name))
            found &= pc.equal(cells, name.strip()).fill_null(False).to_numpy()
    return np.flatnonzero(found)
