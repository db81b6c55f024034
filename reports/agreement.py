"""Agreement with the paper's order at our scale: the best method of a column, and each method against AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from .cells import CellResult
from .formatting import CROSS, format_difference
from .statistics import TTest, paired, welch


class Agreement(Enum):
    """Agreement of an order with the paper's.

    Attributes:
        word: Its name.
        sign: A character, so that colour is not needed.
    """

    AGREES = ("agrees", "✓")
    DISAGREES = ("disagrees", "✗")
    NOISE = ("within noise", "≈")
    ONE_SEED_AGREES = ("agrees, untested", "(✓)")
    ONE_SEED_DISAGREES = ("disagrees, untested", "(✗)")

    def __init__(self, word: str, sign: str) -> None:
        self.word, self.sign = word, sign

    @property
    def slug(self) -> str:
        """Name of the class in the style sheet."""
        return self.word.partition(",")[0].replace(" ", "-")


class Order(NamedTuple):
    """An order in a column, in the paper and here: its best, or a method against AdamW.

    Attributes:
        published: The rows that win in the paper, of those that were run here; or the published difference to AdamW.
        ours: The row that wins here, or our difference; of times their ratio.
        verdict: Whether the order is the same, by our test of it.
        p: Of the test paired by seed: against AdamW, against the paper's best, or against the next where it is ours.
        note: What else is to be known of it.
    """

    published: str
    ours: str
    verdict: Agreement
    p: float | None
    note: str = ""


def column_orders(
    column: Mapping[str, CellResult], titles: Mapping[str, str], reference: Mapping[str, str], lower: bool
) -> dict[str, Order]:
    """Return the orders in a column: by row that of a method against AdamW, and without a name that of the best.

    Args:
        column: Cells by row, of the paper's methods.
        titles: Titles of the rows.
        reference: The row of AdamW by row.
        lower: Whether less is better.
    """
    best = _best(column, titles, -1 if lower else 1)
    found = {"": best} if best else {}
    for row, cell in column.items():
        adamw = column.get(reference[row])
        if adamw is None or adamw is cell or not (cell.published and adamw.published and cell.ours and adamw.ours):
            continue
        printed = cell.published.mean - adamw.published.mean
        if printed == 0:  # a tie claims nothing
            continue
        published_test, test = welch(cell.published, adamw.published), paired(cell.values, adamw.values)
        difference = test.difference if test else cell.ours.mean - adamw.ours.mean
        texts = [format_difference(value, cell.metric) for value in (printed, difference)]
        if None not in cell.ratio:
            texts = [f"{ratio:.2f}{CROSS}" for ratio in cell.ratio[::-1]]
        note = "within noise in the paper" if published_test and not published_test.significant else ""
        found[row] = Order(*texts, _verdict(printed * difference > 0, test), test.p if test else None, note)
    return found


def _best(column: Mapping[str, CellResult], titles: Mapping[str, str], sign: int) -> Order | None:
    """Return the best of a column among the paper's methods that were run here; None for fewer than two."""
    pairs = {row: (cell.published, cell.ours) for row, cell in column.items()}
    printed = {row: sign * published.mean for row, (published, ours) in pairs.items() if published and ours}
    means = {row: sign * ours.mean for row, (published, ours) in pairs.items() if published and ours}
    best = [row for row in printed if printed[row] == max(printed.values())]
    if len(best) == len(printed):  # there are fewer than two, or a tie, which claims nothing
        return None
    first = max(means, key=lambda row: means[row])
    others = [row for row in means if row not in best] if first in best else best
    test = paired(column[first].values, column[max(others, key=lambda row: means[row])].values)
    lacking = sum(published is not None for published, _ in pairs.values()) - len(printed)
    note = f"of those run; {lacking} of the paper's not" if lacking else ""
    published = " / ".join(titles[row] for row in best)
    return Order(published, titles[first], _verdict(first in best, test), test.p if test else None, note)


def _verdict(same: bool, test: TTest | None) -> Agreement:
    """Return whether an order is the paper's, by our test of it."""
    if test is None:
        return Agreement.ONE_SEED_AGREES if same else Agreement.ONE_SEED_DISAGREES
    if not test.significant:
        return Agreement.NOISE
    return Agreement.AGREES if same else Agreement.DISAGREES
