"""Targets that a study sets its method against the baselines, and whether they are reached."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from filtune.experiments.records import lower_is_better
from filtune.experiments.tables import Table

from .formatting import MINUS, format_p
from .seed_runs import SeedRuns, best_runs
from .statistics import paired, seed_differences
from .study import (
    RecoveryRule,
    StreamResult,
    baseline_label,
    convergence_shares,
    median_recovery,
    recovery_rules,
    recovery_share,
)

Target = Mapping[str, Any]

SCORES = ("val_matthews", "val_pearson", "val_accuracy")
"""Validation scores; the first that a stream has is the one of its task."""


class StreamOutcome(NamedTuple):
    """A target on one stream.

    Attributes:
        stream: Title of the stream.
        reached: Whether it is reached; None where it or one of the rows in ``best_of`` was not run.
        said: The value, and by how much the target is missed, in words.
    """

    stream: str
    reached: bool | None
    said: str


class TargetResult(NamedTuple):
    """A target on all streams.

    Attributes:
        words: The target in words.
        outcomes: One for each stream.
        needed: On how many streams it must be reached.
    """

    words: str
    outcomes: list[StreamOutcome]
    needed: int

    @property
    def status(self) -> str:
        """``Reached``, ``Missed``, or ``Open`` where runs that decide it are lacking or no stream has the metric."""
        if not self.outcomes:
            return "Open"
        count = sum(outcome.reached is True for outcome in self.outcomes)
        lacking = sum(outcome.reached is None for outcome in self.outcomes)
        return "Reached" if count >= self.needed else "Open" if count + lacking >= self.needed else "Missed"

    @property
    def head(self) -> str:
        """The first words: whether it is reached, and on how many streams."""
        count = sum(outcome.reached is True for outcome in self.outcomes)
        wanted = "" if self.needed == len(self.outcomes) else f", {self.needed} needed"
        return f"**{self.status}**: {self.words} ({count} of {len(self.outcomes)} streams{wanted})"

    def __str__(self) -> str:
        names = ((True, "reached"), (False, "missed"), (None, "open"))
        groups = {name: [o for o in self.outcomes if o.reached is reached] for reached, name in names}
        parts = [
            f"{name} on {', '.join(o.stream + (f' ({o.said})' if o.said else '') for o in found)}"
            for name, found in groups.items()
            if found
        ]
        return f"{self.head}: {'; '.join(parts) or 'no stream has the metric'}."


class Targets:
    """The targets of a study.

    A target is set against a baseline by its name, or against the best of some rows, ``best_of``, chosen on each
    stream by the metric of the target. ``ahead`` is a difference in the units of the metric that is compared. ``level``
    is a level of significance: the difference is not below zero, or not significantly so in the paired t-test over the
    seeds. ``log_loss`` and ``validation`` are differences of the prequential log loss and of the validation score,
    ``share`` a share of the samples until the baseline's final score, ``recovery`` a share of its recovery time after a
    change. ``streams`` is the number of streams on which a target is to be reached, all by default.

    Args:
        study: The study.
        streams: The comparisons on its streams.

    Attributes:
        results: The targets in the order of the file.

    Raises:
        ValueError: If a target names no baseline of the study and no rows.
    """

    def __init__(self, study: Table, streams: Sequence[StreamResult]) -> None:
        options: dict[str, Any] = study.raw["comparison"]
        wanted: Mapping[str, Target] = options.get("targets") or {}
        unknown = (
            wanted.keys() - options["baselines"] - {name for name, target in wanted.items() if "best_of" in target}
        )
        if unknown:
            raise ValueError(
                f"{study.name}: comparison.targets names {min(unknown)}, which is no baseline and has no best_of"
            )
        self._streams, self._rules = streams, recovery_rules(study)
        self._rows = {name: target.get("best_of", options["baselines"].get(name)) for name, target in wanted.items()}
        self._table_rows = {row.name: row for row in study.rows}
        self.results = [result for name, target in wanted.items() for result in self._judge(name, target)]

    def _judge(self, name: str, target: Target) -> Iterator[TargetResult]:
        """Return the results of each kind that a target has."""
        label = name
        if "best_of" not in target:
            runs = (stream.baselines[name] for stream in self._streams if name in stream.baselines)
            label = next((baseline_label(name, baseline) for baseline in runs), name)
        for kind, words in _words(label, target).items():
            streams = [stream for stream in self._streams if self._applies(kind, stream)]
            outcomes = [self._outcome(stream, name, kind, target) for stream in streams]
            yield TargetResult(words, outcomes, int(target.get("streams", len(outcomes))))

    def _applies(self, kind: str, stream: StreamResult) -> bool:
        """Return whether a stream has changes to recover from, and the method, where it was run, the metric."""
        if kind == "recovery" and stream.name not in self._rules:
            return False
        return not stream.method.finished or bool(stream.method.values(_metric(stream, kind)))

    def _outcome(self, stream: StreamResult, name: str, kind: str, target: Target) -> StreamOutcome:
        metric, method, rule = _metric(stream, kind), stream.method, self._rules.get(stream.name)
        runs = [stream.rows[row] for row in self._rows[name]]
        best = best_runs(runs, metric)
        if rule and kind == "recovery" and "best_of" in target:
            best = min(
                (each for each in runs if each.finished), key=lambda each: median_recovery(each, rule), default=None
            )
        found, pairs = None, 0 if best is None else len(method.values(metric).keys() & best.values(metric).keys())
        if method.diverged and not method.finished:
            return StreamOutcome(stream.title, False, "diverged")
        if best is not None and pairs:
            if kind == "share":
                found = _converges_faster(method, best, metric, target[kind])
            elif kind != "recovery":
                found = _ahead(method, best, metric, kind, target[kind])
            elif rule is not None:
                found = _recovers(method, best, target[kind], rule)
        if found is None or best is None:
            baseline_failed = best is None and any(each.diverged for each in runs)
            return StreamOutcome(stream.title, None, "the baseline diverged" if baseline_failed else "not run")
        reached, value, remark = found
        to = f" to {self._table_rows[best.row].title}" if "best_of" in target else ""
        most = max(len(method.finished), len(best.finished))
        few = pairs < most and f"{pairs} of {most} seeds"
        awaited = [title for row in target.get("best_of", []) if (title := self._awaited(stream, row))]
        said = ", ".join(text for text in (value + to, remark, few) if text)
        said += f"; not run: {', '.join(awaited)}" if awaited else ""
        return StreamOutcome(stream.title, None if awaited else bool(reached), said)

    def _awaited(self, stream: StreamResult, name: str) -> str:
        """Return the title of a row that is yet to be run on a stream; empty if it was run."""
        row, runs = self._table_rows[name], stream.rows[name]
        wanted = row.columns is None or stream.name in row.columns
        return row.title if wanted and not runs.finished and not runs.diverged else ""


def _words(label: str, target: Target) -> dict[str, str]:
    """Return each kind of a target in words."""
    value = {kind: target.get(kind, 0.0) for kind in ("ahead", "level", "log_loss", "validation", "share", "recovery")}
    ahead, loss, score = value["ahead"], value["log_loss"], value["validation"]
    distance = f"at most {-ahead:g} behind" if ahead < 0 else f"{ahead:g} ahead of" if ahead else "level with"
    words = {
        "ahead": f"{distance} {label}",
        "level": f"at least level with {label} (not below, or not significantly at {100 * value['level']:g} %)",
        "log_loss": f"log loss {f'{loss:g} below' if loss else 'not above'} that of {label}",
        "validation": f"validation score {f'{score:g} above' if score else 'not below'} that of {label}",
        "share": f"in {value['share']:g} of the samples of {label}",
        "recovery": f"recovery in {value['recovery']:g} of the samples of {label}",
    }
    return {kind: text for kind, text in words.items() if kind in target}


def _metric(stream: StreamResult, kind: str) -> str:
    """Return the metric of a kind of target on a stream."""
    if kind == "validation" and not stream.metric.startswith("val_"):
        return next((score for score in SCORES if stream.method.values(score)), stream.metric)
    return "online_nll" if kind == "log_loss" else stream.metric


def _ahead(method: SeedRuns, baseline: SeedRuns, metric: str, kind: str, wanted: float) -> tuple[bool, str, str]:
    own, theirs = method.values(metric), baseline.values(metric)
    differences = seed_differences(own, theirs)
    difference = sum(differences) / len(differences)
    gain = -difference if lower_is_better(metric) else difference
    text = f"{difference:+.{3 if metric == 'online_nll' else 1}f}".replace("-", MINUS)
    if kind == "level":
        test = paired(own, theirs)
        return gain >= 0 or bool(test and test.p >= wanted), text, format_p(test.p, "p") if test and gain < 0 else ""
    return gain >= wanted, text, _missed(wanted - gain)


def _converges_faster(method: SeedRuns, baseline: SeedRuns, metric: str, wanted: float) -> tuple[bool, str, str]:
    shares = convergence_shares(method, baseline, metric)
    if never := sum(math.isinf(share) for share in shares):
        return False, "", f"not reached with {never} of {len(shares)} seeds"
    mean = sum(shares) / len(shares)
    return mean <= wanted, f"{mean:.2f}", _missed(mean - wanted)


def _recovers(method: SeedRuns, baseline: SeedRuns, wanted: float, rule: RecoveryRule) -> tuple[bool, str, str]:
    share = recovery_share(method, baseline, rule)
    if not math.isfinite(share):
        return False, "", "no recovery after half of the changes or more"
    return share <= wanted, f"{share:.2f}", _missed(share - wanted)


def _missed(short: float) -> str:
    return "" if short <= 0 else f"by {short:.2g}"
