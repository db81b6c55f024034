"""Agreement with the paper's order at our scale: the best method of a column, and each method against AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from .cells import CellResult
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


@dataclass(frozen=True)
class Winner:
    """The best of a column.

    Attributes:
        published: The rows that win in the paper, of those that were run here.
        ours: The row that wins here.
        verdict: Whether it is one of those, and significantly different from the other.
        p: Of the paired test of ours against the paper's best, or against the next where they are the same.
        lacking: The paper's rows without a figure here.
    """

    published: list[str]
    ours: str
    verdict: Agreement
    p: float | None
    lacking: list[str]


@dataclass(frozen=True)
class Claim:
    """A method against AdamW in a column.

    Attributes:
        published: Published mean minus that of AdamW.
        noisy: Whether the published difference is itself within noise.
        ours: Our mean difference, seed by seed.
        p: Of the paired test.
        verdict: Whether the signs agree.
    """

    published: float
    noisy: bool
    ours: float
    p: float | None
    verdict: Agreement


def best_of_column(column: Mapping[str, CellResult], lower: bool) -> Winner | None:
    """Return the best of a column among the paper's methods that were run here; None for fewer than two."""
    sign = -1 if lower else 1
    there = {row: cell for row, cell in column.items() if cell.published and cell.ours}
    if len(there) < 2:
        return None
    means = {row: sign * cell.ours.mean for row, cell in there.items() if cell.ours}
    printed = {row: sign * cell.published.mean for row, cell in there.items() if cell.published}
    best = [row for row in printed if printed[row] == max(printed.values())]
    if len(best) == len(there):  # a tie claims nothing
        return None
    first = max(means, key=lambda row: means[row])
    others = [row for row in means if row not in best] if first in best else best
    other = max(others, key=lambda row: means[row])
    test = paired(column[first].values, column[other].values)
    lacking = [row for row, cell in column.items() if cell.published and row not in there]
    return Winner(best, first, _verdict(first in best, test), test.p if test else None, lacking)


def claims(
    leaf: str, column: Mapping[str, CellResult], reference: Mapping[str, str], lower: bool
) -> dict[tuple[str, str], Claim]:
    """Return the comparison of each method of a column with AdamW, by row and leaf."""
    found = {}
    for row, cell in column.items():
        adamw = column.get(reference[row])
        if adamw is None or adamw is cell or not (cell.published and adamw.published and cell.ours and adamw.ours):
            continue
        printed = cell.published.mean - adamw.published.mean
        if printed == 0:  # a tie claims nothing
            continue
        published_test = welch(cell.published, adamw.published)
        test = paired(cell.values, adamw.values)
        ours = test.difference if test else cell.ours.mean - adamw.ours.mean
        noisy = bool(published_test and not published_test.significant)
        verdict = _verdict(printed * ours > 0, test)
        found[row, leaf] = Claim(printed, noisy, ours, test.p if test else None, verdict)
    return found


def _verdict(same: bool, test: TTest | None) -> Agreement:
    """Return whether an order is the paper's, by our test of it."""
    if test is None:
        return Agreement.ONE_SEED_AGREES if same else Agreement.ONE_SEED_DISAGREES
    if not test.significant:
        return Agreement.NOISE
    return Agreement.AGREES if same else Agreement.DISAGREES
