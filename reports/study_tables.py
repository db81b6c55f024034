"""The tables of a study: one line per method, one column per stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from filtune.experiments.escaping import escape_markdown
from filtune.experiments.records import lower_is_better
from filtune.experiments.tables import Row

from .formatting import DASH, MINUS, format_p
from .seed_runs import SeedRuns, Values
from .statistics import MeanStd, TTest, holm, paired, seed_differences, summarise
from .study import (
    RecoveryRule,
    StreamResult,
    all_recovery_times,
    convergence_shares,
    recovery_share,
)
from .styled import markdown_table, text_frame

BREAK = "<br>"
STARS = ((0.001, r"\*\*\*"), (0.01, r"\*\*"), (0.05, r"\*"))
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


class HolmTest(NamedTuple):
    """The paired t-test of the method against one of several baselines, and its p-value with Holm's correction."""

    test: TTest
    adjusted: float

    @property
    def stars(self) -> str:
        """Marks of the adjusted p-value."""
        return next((f" {mark}" for level, mark in STARS if self.adjusted < level), "")  # narrow columns break here


def holm_tests(own: Values, others: Mapping[str, Values]) -> dict[str, HolmTest]:
    """Return the paired tests of a method against baselines, by their names, with Holm's correction over all of them.

    A baseline with fewer than two seeds in common is left out, and does not count.

    Args:
        own: The method's values by seed.
        others: The values of each baseline by seed.
    """
    tests = {name: test for name, values in others.items() if (test := paired(own, values))}
    adjusted = holm([test.p for test in tests.values()])
    return {name: HolmTest(test, p or 0.0) for (name, test), p in zip(tests.items(), adjusted, strict=True)}


def method_table(
    streams: Sequence[StreamResult],
    lines: Sequence[MethodLine],
    cell: Callable[[StreamResult, MethodLine], Sequence[str]],
) -> str:
    """Return a Markdown table of one line per method and one column per stream; empty if all cells are.

    Args:
        streams: Its columns.
        lines: Its lines.
        cell: The lines of text in a cell; a dash stands where there are none.
    """
    heads = [escape_markdown(stream.title) + (" (reserved)" if stream.reserved else "") for stream in streams]
    rows = (
        (
            escape_markdown(line.title or row_title(line.row, streams)),
            [BREAK.join(text for text in cell(stream, line) if text) for stream in streams],
        )
        for line in lines
    )
    frame = text_frame("method", heads, rows)
    return markdown_table(frame.replace("", DASH)) if frame.ne("").to_numpy().any() else ""


def row_title(row: Row, streams: Sequence[StreamResult]) -> str:
    """Return the title of a row, with a dagger if the method must know where the stream ends."""
    dagger = "†" if any(stream.rows[row.name].knows_end for stream in streams) else ""
    return row.title + dagger + (" (fixed rate)" if row.rate == "published" else "")


class ScoreTable:
    """The table of a metric: mean and deviation of each method, and the method's difference to each baseline.

    Args:
        streams: Its columns.
        rows: All rows that are compared, the method first: Holm's correction is over all of them.
        metric: Name of the metric; none for that of each stream.
        digits: Decimals.
        values: The values of runs by seed, where they are not those of the metric.
    """

    def __init__(
        self,
        streams: Sequence[StreamResult],
        rows: Sequence[Row],
        metric: str | None = None,
        digits: int = 1,
        values: Callable[[SeedRuns, str], Values] = SeedRuns.values,
    ) -> None:
        self.rows, self.metric, self.digits, self._of = rows, metric, digits, values
        values_of = {s.name: {row.name: self._values(s, MethodLine(row)) for row in rows} for s in streams}
        idle = [stream.name for stream in streams if not any(runs.finished for runs in stream.rows.values())]
        self.streams = [stream for stream in streams if stream.name in idle or any(values_of[stream.name].values())]
        self.tests = {name: holm_tests(found.pop(rows[0].name), found) for name, found in values_of.items()}

    def scores(self, lines: Sequence[MethodLine], points: bool = False) -> str:
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

        def cell(stream: StreamResult, line: MethodLine) -> list[str]:
            values = self._values(stream, line)
            sample = summarise([*values.values()])
            if sample is None:
                return []
            text, few = self._summary(sample), len(values) < most[stream.name]
            differences, test = self._differences(stream, line), self.tests[stream.name].get(line.row.name)
            return [
                f"**{text}**" if not few and self._number(sample.mean) == best[stream.name] else text,
                self._number(differences.mean, "+") + (test.stars if test else "") if differences else "",
                escape_markdown(stream.rows[line.row.name].setting).replace("=", "\u00a0") if points else "",
                seeds_text(len(values)) if few else "",
            ]

        return method_table(self.streams, lines, cell)

    def differences(self) -> str:
        """Return the table of the differences to each baseline with their deviations and p-values."""

        def cell(stream: StreamResult, line: MethodLine) -> list[str]:
            found, test = self._differences(stream, line), self.tests[stream.name].get(line.row.name)
            if not found or not test:
                return []
            few = (found.count or 0) < len(self._values(stream, MethodLine(self.rows[0])))
            return [
                self._summary(found, "+"),
                f"{format_p(test.test.p, 'p')}, Holm {format_p(test.adjusted)}",
                seeds_text(found.count or 0) if few else "",
            ]

        return method_table(self.streams, [MethodLine(row) for row in self.rows[1:]], cell)

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


def speed_table(streams: Sequence[StreamResult], lines: Sequence[MethodLine]) -> str:
    """Return the table of samples until a baseline's final score, as a share of its own."""

    def cell(stream: StreamResult, line: MethodLine) -> list[str]:
        shares = convergence_shares(stream.method, stream.rows[line.row.name], stream.metric)
        reached = [share for share in shares if math.isfinite(share)]
        never = f"never {len(shares) - len(reached)} of {len(shares)}" if len(reached) < len(shares) else ""
        return [f"{np.mean(reached):.2f}" if reached else DASH if never else "", never]

    return method_table(streams, lines, cell)


def recovery_table(
    streams: Sequence[StreamResult], lines: Sequence[MethodLine], rules: Mapping[str, RecoveryRule]
) -> str:
    """Return the table of recovery times after a change, and the method's as a share of a baseline's."""

    def cell(stream: StreamResult, line: MethodLine) -> list[str]:
        runs, rule = stream.rows[line.row.name], rules[stream.name]
        times = all_recovery_times(runs, rule)
        if not times:
            return []
        compared = runs is not stream.method and stream.method.finished
        share = recovery_share(stream.method, runs, rule) if compared else math.inf
        return [_until(times), f"{share:.2f} of it" if math.isfinite(share) else ""]

    return method_table(streams, lines, cell)


def seeds_text(count: int) -> str:
    """Return a number of seeds in words."""
    return f"{count} seed{'' if count == 1 else 's'}"


def _until(samples: Sequence[float]) -> str:
    low, median_, high = (
        f"{q:.0f}".replace("inf", "never") for q in np.quantile(samples, (0.25, 0.5, 0.75), method="nearest")
    )
    return f"{median_} ({low} to {high})"
