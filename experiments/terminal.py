"""Tables on the terminal, by rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table


def terminal_table(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    texts: Sequence[str] = (),
    no_wrap: bool = False,
    caption: str | None = None,
) -> Table:
    """Return a table for the terminal.

    Args:
        title: Above it.
        heads: Titles of the columns.
        rows: Texts; missing ones at the end of a row are empty.
        texts: Columns that are aligned to the left as the first one is; the others have numbers.
        no_wrap: Whether the first column stays in one line, for names that are to be typed.
        caption: Below it.
    """
    table = Table(title=title, caption=caption)
    for number, head in enumerate(heads):
        if number == 0:
            table.add_column(head, no_wrap=no_wrap, overflow="fold", min_width=10)
        else:
            table.add_column(head, justify="left" if head in texts else "right")
    for row in rows:
        table.add_row(*row)
    return table
