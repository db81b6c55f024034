"""Targets that a study sets its method against the baselines, and whether they are reached."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from filtune.experiments.tables import Table

from .formatting import DASH
from .study import Comparison, RecoveryRule, StreamResult, baseline_label, recovery_rules, recovery_share
from .study_tables import baseline_names, markdown_table

Target = Mapping[str, float]


class TargetResult(NamedTuple):
    """One target on one stream.

    Attributes:
        target: The target in words.
        missed: By how much it was missed, in words; empty where it is reached.
    """

    target: str
    missed: str

    def __str__(self) -> str:
        return f"{self.target}: {self.missed or '**reached**'}"


class Targets:
    """The targets of a study, by baseline.

    ``ahead`` is a difference in the units of the metric, ``share`` a share of the samples until the baseline's final
    score, ``recovery`` a share of its recovery time after a change.

    Args:
        study: The study.
        streams: The comparisons on its streams.

    Attributes:
        results: By the names of a stream and a baseline.

    Raises:
        ValueError: If a target names no baseline of the study.
    """

    def __init__(self, study: Table, streams: Sequence[StreamResult]) -> None:
        options: dict[str, Any] = study.raw["comparison"]
        self.wanted: Mapping[str, Target] = options.get("targets") or {}
        unknown = set(self.wanted) - set(options["baselines"])
        if unknown:
            raise ValueError(f"{study.name}: comparison.targets names {min(unknown)}, which is no baseline")
        self.rules = recovery_rules(study)
        self.streams = [
            replace(stream, comparisons={k: found for k, found in stream.comparisons.items() if k in self.wanted})
            for stream in streams
        ]
        pairs = [(stream, comparison) for stream in self.streams for comparison in stream.comparisons.values()]
        self.results = {(stream.name, comparison.name): self._judge(stream, comparison) for stream, comparison in pairs}

    def table(self) -> str:
        """Return a Markdown table of all targets, by stream and baseline."""

        def against(stream: StreamResult, comparison: Comparison) -> list[str]:
            return ["; ".join(map(str, self.results[stream.name, comparison.name])) or DASH]

        return markdown_table(self.streams, [], ["{}"], lambda _: [], against)

    def summary(self) -> str:
        """Return in words on how many streams each target is reached."""
        found = []
        for name in baseline_names(self.streams):
            judged = [result for (_, baseline), ones in self.results.items() if baseline == name for result in ones]
            wanted = Counter(result.target for result in judged)
            reached = Counter(result.target for result in judged if not result.missed)
            counts = (f"{target} on {reached[target]} of {streams}" for target, streams in wanted.items())
            first = next(stream.comparisons[name] for stream in self.streams if name in stream.comparisons)
            found.append(f"{baseline_label(name, first)}: {', '.join(counts)}")
        return "; ".join(found)

    def _judge(self, stream: StreamResult, comparison: Comparison) -> list[TargetResult]:
        target, rule = self.wanted[comparison.name], self.rules.get(stream.name)
        found = (
            _ahead(comparison, target),
            _converges_faster(comparison, target),
            _recovered(stream, comparison, target, rule),
        )
        return [result for result in found if result]


def _ahead(comparison: Comparison, target: Target) -> TargetResult | None:
    if "ahead" not in target or not comparison.differences:
        return None
    wanted = target["ahead"]
    words = f"at most {-wanted:g} behind" if wanted < 0 else f"{wanted:g} ahead" if wanted else "level"
    return TargetResult(words, _missed(wanted - float(np.mean(comparison.differences))))


def _converges_faster(comparison: Comparison, target: Target) -> TargetResult | None:
    shares = list(comparison.speed.values())
    if "share" not in target or not shares:
        return None
    never = sum(math.isinf(share) for share in shares)
    missed = _missed(float(np.mean(shares)) - target["share"])
    words = f"missed, not reached with {never} of {len(shares)} seeds" if never else missed
    return TargetResult(f"in {target['share']:g} of the samples", words)


def _recovered(
    stream: StreamResult, comparison: Comparison, target: Target, rule: RecoveryRule | None
) -> TargetResult | None:
    if "recovery" not in target or rule is None:
        return None
    share = recovery_share(stream.method, comparison.baseline, rule)
    missed = _missed(share - target["recovery"]) if math.isfinite(share) else "missed, half of the changes never"
    return TargetResult(f"recovery in {target['recovery']:g} of the samples", missed)


def _missed(short: float) -> str:
    return "" if short <= 0 else f"missed by {short:.2g}"
