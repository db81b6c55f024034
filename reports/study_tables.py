"""The tables of a study: one row per stream, the method, then each baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .formatting import DASH, MINUS, metric_title
from .statistics import MeanStd, TTest, paired, seed_differences, summarise
from .study import (
    Comparison,
    Method,
    RecoveryRule,
    StreamResult,
    all_recovery_times,
    baseline_label,
    mean_std,
    recovery_share,
)


def baseline_names(streams: Sequence[StreamResult]) -> list[str]:
    """Return the names of all baselines, in the order of the study."""
    return list(dict.fromkeys(name for stream in streams for name in stream.comparisons))


def score_table(streams: Sequence[StreamResult]) -> str:
    """Return the table of the compared metric and of the differences to each baseline."""
    return markdown_table(
        streams,
        ["method"],
        ["{}", "difference"],
        lambda stream: [format_summary(mean_std(stream.method.values(stream.metric)))],
        lambda stream, found: [
            _baseline(found.baseline, stream.metric),
            _difference(found.differences, found.test),
        ],
    )


def average_table(streams: Sequence[StreamResult]) -> str:
    """Return the same table for the mean of all validations of a run."""

    def against(stream: StreamResult, comparison: Comparison) -> list[str]:
        own, theirs = stream.method.averages(stream.metric), comparison.baseline.averages(stream.metric)
        return [format_summary(mean_std(theirs)), _difference(seed_differences(own, theirs), paired(own, theirs))]

    return markdown_table(
        streams,
        ["method"],
        ["{}", "difference"],
        lambda stream: [format_summary(mean_std(stream.method.averages(stream.metric)))],
        against,
    )


def speed_table(streams: Sequence[StreamResult]) -> str:
    """Return the table of samples until a baseline's final score, as a share of its own."""
    return markdown_table(streams, [], ["{}"], lambda _: [], lambda _, comparison: [_share(comparison)])


def metric_table(streams: Sequence[StreamResult], metrics: Sequence[str], digits: int) -> str:
    """Return the table of one metric: the method's under each name, a baseline's under the last."""
    theirs = metrics[-1]
    streams = [stream for stream in streams if stream.method.values(theirs)]
    if not streams:
        return ""
    seeds = {stream.name: stream.method.records for stream in streams}
    found = markdown_table(
        streams,
        ["method, posterior predictive", "method"][-len(metrics) :],
        ["{}"],
        lambda stream: [format_summary(mean_std(stream.method.values(metric)), digits) for metric in metrics],
        lambda stream, comparison: [
            format_summary(mean_std(comparison.baseline.values(theirs, seeds[stream.name])), digits)
        ],
    )
    title = metric_title(theirs)
    return f"{title[0].upper()}{title[1:]}:\n\n{found}"


def recovery_table(streams: Sequence[StreamResult], rules: Mapping[str, RecoveryRule]) -> str:
    """Return the table of recovery times after a change."""

    def against(stream: StreamResult, comparison: Comparison) -> list[str]:
        rule = rules[stream.name]
        theirs = all_recovery_times(comparison.baseline, rule)
        if not theirs:
            return [_until(theirs)]
        share = recovery_share(stream.method, comparison.baseline, rule)
        return [f"{_until(theirs)}; the method takes {share:.2f} of it" if math.isfinite(share) else _until(theirs)]

    def own(stream: StreamResult) -> list[str]:
        return [_until(all_recovery_times(stream.method, rules[stream.name]))]

    return markdown_table(streams, ["method"], ["{}"], own, against)


def format_summary(sample: MeanStd | None, digits: int = 1) -> str:
    """Return mean and standard deviation as text."""
    if sample is None:
        return DASH
    deviation = "" if sample.deviation is None else f" ± {sample.deviation:.{digits}f}"
    return f"{sample.mean:.{digits}f}{deviation}"


def markdown_table(
    streams: Sequence[StreamResult],
    own_heads: Sequence[str],
    baseline_heads: Sequence[str],
    own: Callable[[StreamResult], list[str]],
    against: Callable[[StreamResult, Comparison], list[str]],
) -> str:
    """Return a Markdown table.

    Args:
        streams: One row each.
        own_heads: Headings of the columns of the method.
        baseline_heads: Headings of the columns of each baseline, with {} for its name.
        own: Cells of the method.
        against: Cells of a baseline; a dash stands where it was not run.
    """
    if not streams:
        return "No run is finished."
    names = baseline_names(streams)
    labels = {name: baseline_label(name, stream.comparisons[name]) for stream in streams for name in stream.comparisons}
    lines = [["stream", *own_heads, *(head.format(labels[name]) for name in names for head in baseline_heads)]]
    lines.append(["---", *("---:" for _ in lines[0][1:])])
    for stream in streams:
        cells = [stream.title + (" (reserved)" if stream.reserved else ""), *own(stream)]
        for name in names:
            comparison = stream.comparisons.get(name)
            cells += [DASH] * len(baseline_heads) if comparison is None else against(stream, comparison)
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _baseline(baseline: Method, metric: str) -> str:
    row, _, point = baseline.name.split("/", 2) if baseline.name.count("/") > 1 else (*baseline.name.split("/"), "")
    at = f" ({row}{', ' + point if point else ''})"
    return format_summary(mean_std(baseline.values(metric))) + at


def _difference(found: Sequence[float], test: TTest | None) -> str:
    sample = summarise(found)
    if sample is None:
        return DASH
    p = "" if test is None else f", p = {test.p:.2g}"
    seeds = f"{len(found)} seed{'s' if len(found) > 1 else ''}"
    return f"{'+' if sample.mean >= 0 else ''}{format_summary(sample).replace('-', MINUS)} ({seeds}{p})"


def _share(comparison: Comparison) -> str:
    shares = list(comparison.speed.values())
    reached = [share for share in shares if math.isfinite(share)]
    never = f", never {len(shares) - len(reached)} of {len(shares)}" if len(reached) < len(shares) else ""
    return f"{np.mean(reached):.2f}{never}" if reached else DASH + never


def _until(samples: Sequence[float]) -> str:
    if not samples:
        return DASH
    low, median, high = (
        f"{q:.0f}".replace("inf", "never") for q in np.quantile(samples, (0.25, 0.5, 0.75), method="nearest")
    )
    return f"{median} ({low} to {high})"
