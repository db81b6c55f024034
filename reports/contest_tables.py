"""The tables of ``filtune contest``: one row a stream, the method, then each rival."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .contest import Duel, Entrant, Stream, label, spread
from .recovery import Rule, all_recoveries, recovery_share
from .statistics import Sample, Test, differences, paired, summarise
from .words import DASH, MINUS, metric_title


def rivals(streams: Sequence[Stream]) -> list[str]:
    """Names of all rivals, in the order of the study."""
    return list(dict.fromkeys(name for stream in streams for name in stream.duels))


def scores(streams: Sequence[Stream]) -> str:
    """What is compared, and by how much the method is ahead."""
    return table(
        streams,
        ["method"],
        ["{}", "ahead by"],
        lambda stream: [number(spread(stream.method.values(stream.metric)))],
        lambda stream, duel: [_rival(duel.rival, stream.metric), _difference(duel.differences, duel.test)],
    )


def averages(streams: Sequence[Stream]) -> str:
    """The same of the mean of all validations of a run."""

    def against(stream: Stream, duel: Duel) -> list[str]:
        own, theirs = stream.method.averages(stream.metric), duel.rival.averages(stream.metric)
        return [number(spread(theirs)), _difference(differences(own, theirs), paired(own, theirs))]

    return table(
        streams,
        ["method"],
        ["{}", "ahead by"],
        lambda stream: [number(spread(stream.method.averages(stream.metric)))],
        against,
    )


def speeds(streams: Sequence[Stream]) -> str:
    """Samples to where a rival ends, as a share of its own."""
    return table(streams, [], ["{}"], lambda _: [], lambda _, duel: [_share(duel)])


def figures(streams: Sequence[Stream], metrics: Sequence[str], digits: int) -> str:
    """One figure of all streams that have it: the method's by each of its names, a rival's by the last."""
    theirs = metrics[-1]
    streams = [stream for stream in streams if stream.method.values(theirs)]
    if not streams:
        return ""
    seeds = {stream.name: stream.method.records for stream in streams}
    found = table(
        streams,
        ["method, moderated", "method"][-len(metrics) :],
        ["{}"],
        lambda stream: [number(spread(stream.method.values(metric)), digits) for metric in metrics],
        lambda stream, duel: [number(spread(duel.rival.values(theirs, seeds[stream.name])), digits)],
    )
    title = metric_title(theirs)
    return f"{title[0].upper()}{title[1:]}:\n\n{found}"


def recoveries(streams: Sequence[Stream], rules: Mapping[str, Rule]) -> str:
    """Samples until a method is right again after a change."""

    def against(stream: Stream, duel: Duel) -> list[str]:
        rule = rules[stream.name]
        theirs = all_recoveries(duel.rival, rule)
        if not theirs:
            return [_until(theirs)]
        share = recovery_share(stream.method, duel.rival, rule)
        return [f"{_until(theirs)}; the method takes {share:.2f} of it"]

    def own(stream: Stream) -> list[str]:
        return [_until(all_recoveries(stream.method, rules[stream.name]))]

    return table(streams, ["method"], ["{}"], own, against)


def number(sample: Sample | None, digits: int = 1) -> str:
    """Mean and deviation as they are written."""
    if sample is None:
        return DASH
    deviation = "" if sample.deviation is None else f" ± {sample.deviation:.{digits}f}"
    return f"{sample.mean:.{digits}f}{deviation}"


def table(
    streams: Sequence[Stream],
    own_heads: Sequence[str],
    rival_heads: Sequence[str],
    own: Callable[[Stream], list[str]],
    against: Callable[[Stream, Duel], list[str]],
) -> str:
    """A table of Markdown.

    Args:
        streams: One row each.
        own_heads: Of the columns of the method.
        rival_heads: Of the columns of each rival, with {} for its name.
        own: What stands in the former.
        against: What stands in the latter; a dash where the rival did not run.
    """
    if not streams:
        return "None was run."
    names = rivals(streams)
    labels = {name: label(name, stream.duels[name]) for stream in streams for name in stream.duels}
    lines = [["stream", *own_heads, *(head.format(labels[name]) for name in names for head in rival_heads)]]
    lines.append(["---", *("---:" for _ in lines[0][1:])])
    for stream in streams:
        cells = [stream.title + (" (reserved)" if stream.reserved else ""), *own(stream)]
        for name in names:
            duel = stream.duels.get(name)
            cells += [DASH] * len(rival_heads) if duel is None else against(stream, duel)
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rival(rival: Entrant, metric: str) -> str:
    row, _, point = rival.name.split("/", 2) if rival.name.count("/") > 1 else (*rival.name.split("/"), "")
    at = f" ({row}{', ' + point if point else ''})"
    return number(spread(rival.values(metric))) + at


def _difference(found: Sequence[float], test: Test | None) -> str:
    sample = summarise(found)
    if sample is None:
        return DASH
    p = "" if test is None else f", p = {test.p:.2g}"
    seeds = f"{len(found)} seed{'s' if len(found) > 1 else ''}"
    return f"{'+' if sample.mean >= 0 else ''}{number(sample).replace('-', MINUS)} ({seeds}{p})"


def _share(duel: Duel) -> str:
    shares = list(duel.speed.values())
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
