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


def guard_formulas(
    table: pa.Table, predicted: dict[str, list[Any]], escape: bool
) -> tuple[pa.Table, dict[str, list[Any]], str]:
    """Return the columns of an input and the predictions, formulas escaped where asked for, and a note about them.

    Args:
        table: The input's columns.
        predicted: The columns of predictions.
        escape: Whether to put an apostrophe before formulas; otherwise all stays as it is.
    """
    texts = {
        place: table.column(place).to_pylist()
        for place, kind in enumerate(table.schema.types)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind)
    }
    cells = [
        *table.column_names,
        *predicted,
        *(cell for column in (*texts.values(), *predicted.values()) for cell in column),
    ]
    count = sum(map(is_formula, cells))
    if not count:
        return table, predicted, ""
    if not escape:
        note = f"; {count} cells are formulas for a spreadsheet: open the file as text, or use --escape_formulas"
        return table, predicted, note
    for place, column in texts.items():
        kind = table.schema.field(place).type
        table = table.set_column(place, table.column_names[place], pa.array(map(escape_formula, column), kind))
    table = table.rename_columns([escape_formula(name) for name in table.column_names])
    escaped = {escape_formula(name): [escape_formula(cell) for cell in column] for name, column in predicted.items()}
    return table, escaped, f"; an apostrophe put before {count} cells that a spreadsheet would run"
