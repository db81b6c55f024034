"""The tables of a study: one line per method, one column per stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from filtune.experiments.records import lower_is_better
from filtune.experiments.tables import Row

from .formatting import DASH, MINUS, format_p
from .page import TableBlock
from .seed_runs import SeedRuns, Values
from .statistics import MeanStd, TTest, paired, seed_differences, summarise, with_holm
from .study import RecoveryRule, StreamResult, all_recovery_times, convergence_shares, recovery_share
from .styled import Markup, escape_tex, text_frame

if TYPE_CHECKING:
    from pandas import DataFrame

Lines = tuple[Sequence[str], bool]
"""The lines of a cell, none of them for a dash, and whether the first is bold."""

STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
"""Marks of an adjusted p-value below a level."""


class MethodLine(NamedTuple):
    """A line of a table.

    Attributes:
        row: The row of the study.
        metric: The metric of this line; none for that of the table.
        title: Its heading; none for the title of the row.
    """

    row: Row
    metric: str | None = None
    title: str | None = None


def method_table(
    title: str,
    streams: Sequence[StreamResult],
    lines: Sequence[MethodLine],
    cell: Callable[[StreamResult, MethodLine], Lines],
) -> list[TableBlock]:
    """Return a table of one line per method and one column per stream; none if all cells are empty.

    Args:
        title: Its caption in LaTeX.
        streams: Its columns.
        lines: Its lines.
        cell: Computes a cell.
    """
    cells = [[cell(stream, line) for stream in streams] for line in lines]
    if not any(texts for row in cells for texts, _ in row):
        return []
    heads = [stream.title + (" (reserved)" if stream.reserved else "") for stream in streams]
    titles = [line.title or row_title(line.row, streams) for line in lines]

    def frame(markup: Markup, _: Any) -> DataFrame:
        texts = [[markup.stack(texts or [DASH], bold) for texts, bold in row] for row in cells]
        rows = zip(map(markup.escape, titles), texts, strict=True)
        return text_frame("method", [*map(markup.escape, heads)], rows)

    return [TableBlock(frame, escape_tex(title))]


def row_title(row: Row, streams: Sequence[StreamResult]) -> str:
    """Return the title of a row, with a dagger if the method must know where the stream ends."""
    dagger = "†" if any(stream.rows[row.name].knows_end for stream in streams) else ""
    return row.title + dagger + (" (fixed rate)" if row.rate == "published" else "")


class ScoreTable:
    """The table of a metric: mean and deviation of each method, and the method's difference to each baseline.

    Args:
        title: The caption in LaTeX.
        streams: Its columns.
        rows: All rows that are compared, the method first: Holm's correction is over all of them.
        metric: Name of the metric; none for that of each stream.
        digits: Decimals.
        values: The values of runs by seed, where they are not those of the metric.
    """

    def __init__(
        self,
        title: str,
        streams: Sequence[StreamResult],
        rows: Sequence[Row],
        metric: str | None = None,
        digits: int = 1,
        values: Callable[[SeedRuns, str], Values] = SeedRuns.values,
    ) -> None:
        self.title, self.rows, self.metric, self.digits, self._of = title, rows, metric, digits, values
        values_of = {s.name: {row.name: self._values(s, MethodLine(row)) for row in rows} for s in streams}
        idle = [stream.name for stream in streams if not any(runs.finished for runs in stream.rows.values())]
        self.streams = [stream for stream in streams if stream.name in idle or any(values_of[stream.name].values())]
        self.tests = {name: self._tests(found) for name, found in values_of.items()}

    def scores(self, lines: Sequence[MethodLine], points: bool = False) -> list[TableBlock]:
        """Return the table of some lines: the best in bold, below a baseline's score the method's difference to it.

        Args:
            lines: The lines.
            points: Whether the chosen point of a grid is shown.
        """
        best, most = {}, {}
        for stream in self.streams:
            found = [values for line in lines if (values := self._values(stream, line).values())]
            most[stream.name] = max(map(len, found), default=0)
            means = [sum(values) / len(values) for values in found if len(values) == most[stream.name]]
            choose = min if lower_is_better(self.metric or stream.metric) else max
            best[stream.name] = self._number(choose(means)) if means else ""

        def cell(stream: StreamResult, line: MethodLine) -> Lines:
            values = self._values(stream, line)
            sample = summarise([*values.values()])
            if sample is None:
                return [], False
            few = len(values) < most[stream.name]
            differences, test = self._differences(stream, line), self.tests[stream.name].get(line.row.name)
            texts = [
                self._summary(sample),
                self._number(differences.mean, "+") + (stars(test.adjusted or 0.0) if test else "")
                if differences
                else "",
                stream.rows[line.row.name].setting.replace("=", "\u00a0") if points else "",
                seeds_text(len(values)) if few else "",
            ]
            return [*filter(None, texts)], not few and self._number(sample.mean) == best[stream.name]

        return method_table(self.title, self.streams, lines, cell)

    def differences(self) -> list[TableBlock]:
        """Return the table of the differences to each baseline with their deviations and p-values."""

        def cell(stream: StreamResult, line: MethodLine) -> Lines:
            found, test = self._differences(stream, line), self.tests[stream.name].get(line.row.name)
            if not found or not test:
                return [], False
            few = (found.count or 0) < len(self._values(stream, MethodLine(self.rows[0])))
            p = f"{format_p(test.p, 'p')}, Holm {format_p(test.adjusted)}"
            return [self._summary(found, "+"), p, *([seeds_text(found.count or 0)] if few else [])], False

        lines, title = [MethodLine(row) for row in self.rows[1:]], f"{self.title}: differences"
        return method_table(title, self.streams, lines, cell)

    def _tests(self, values: Mapping[str, Values]) -> dict[str, TTest | None]:
        """Return the tests of the method against each baseline, paired by seed, with Holm's correction over them."""
        own, *others = (row.name for row in self.rows)
        tests = with_holm([paired(values[own], values[other]) for other in others])
        return dict(zip(others, tests, strict=True))

    def _values(self, stream: StreamResult, line: MethodLine) -> Values:
        return self._of(stream.rows[line.row.name], line.metric or self.metric or stream.metric)

    def _differences(self, stream: StreamResult, line: MethodLine) -> MeanStd | None:
        """Return mean and deviation of the method's values minus a baseline's, of the seeds that both have."""
        if line.row.name == self.rows[0].name:
            return None
        return summarise(seed_differences(self._values(stream, MethodLine(self.rows[0])), self._values(stream, line)))

    def _summary(self, sample: MeanStd, sign: str = "") -> str:
        deviation = "" if sample.deviation is None else f" ±\u00a0{self._number(sample.deviation)}"
        return self._number(sample.mean, sign) + deviation

    def _number(self, value: float, sign: str = "") -> str:
        return f"{value:{sign}.{self.digits}f}".replace("-", MINUS)


def stars(p: float) -> str:
    """Return the marks of an adjusted p-value after a space, where narrow columns break."""
    return next((f" {mark}" for level, mark in STARS if p < level), "")


def speed_cell(stream: StreamResult, line: MethodLine) -> Lines:
    """Return the samples until a baseline's final score, as a share of its own."""
    shares = convergence_shares(stream.method, stream.rows[line.row.name], stream.metric)
    reached = [share for share in shares if math.isfinite(share)]
    never = f"never {len(shares) - len(reached)} of {len(shares)}" if len(reached) < len(shares) else ""
    return [*filter(None, [f"{np.mean(reached):.2f}" if reached else DASH if never else "", never])], False


def recovery_cell(rules: Mapping[str, RecoveryRule], stream: StreamResult, line: MethodLine) -> Lines:
    """Return the recovery times after a change, and the method's as a share of a baseline's."""
    runs, rule = stream.rows[line.row.name], rules[stream.name]
    times = all_recovery_times(runs, rule)
    if not times:
        return [], False
    compared = runs is not stream.method and stream.method.finished
    share = recovery_share(stream.method, runs, rule) if compared else math.inf
    return [_until(times), *([f"{share:.2f} of it"] if math.isfinite(share) else [])], False


def seeds_text(count: int) -> str:
    """Return a number of seeds in words."""
    return f"{count} seed{'' if count == 1 else 's'}"


def _until(samples: Sequence[float]) -> str:
    low, median_, high = (
        f"{q:.0f}".replace("inf", "never") for q in np.quantile(samples, (0.25, 0.5, 0.75), method="nearest")
    )
    return f"{median_} ({low} to {high})"
