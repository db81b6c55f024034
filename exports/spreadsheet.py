"""Cells that a spreadsheet would run as formulas (CSV injection), in tables that are written as text.

A cell that begins with ``=``, ``+``, ``-`` or ``@``, or with a tab or a carriage return, is a formula for Excel,
LibreOffice and Google Sheets, unless it is a number; see https://owasp.org/www-community/attacks/CSV_Injection.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What formulas begin with."""


def is_formula(cell: Any) -> bool:
    """Return whether a spreadsheet would run a cell: text that begins as a formula does and is no number."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def escape_formula(cell: Any) -> Any:
    """Return a cell with an apostrophe before a formula, which makes it text; any other cell as it is."""
    return f"'{cell}" if is_formula(cell) else cell


def note_formulas(table: pa.Table, predicted: dict[str, list[Any]], ending: str, escaped: bool) -> str:
    """Return a note about the cells of an output that a spreadsheet would run; empty where there are none.

    Args:
        table: The input's columns.
        predicted: The columns of predictions.
        ending: The format of the output; only text files are opened as cells.
        escaped: Whether an apostrophe was put before formulas.
    """
    if ending not in (".csv", ".tsv"):
        return ""
    texts = [
        table.column(place)
        for place, kind in enumerate(table.schema.types)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ]
    columns = [table.column_names, list(predicted), *(column.to_pylist() for column in texts), *predicted.values()]
    count = sum(is_formula(cell) for column in columns for cell in column)
    if not count:
        return ""
    if escaped:
        return f"; an apostrophe put before {count} cells that a spreadsheet would run"
    return f"; {count} cells are formulas for a spreadsheet: open the file as text, or use --escape_formulas"
