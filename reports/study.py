"""A study: a method against tuned baselines on several streams, paired by seed.

A baseline is the best point of its grids on a stream, by the mean over the seeds that are compared: chosen after the
fact, which favours the baseline.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from filtune.experiments.archive import Archive, Pool
from filtune.experiments.records import lower_is_better
from filtune.experiments.tables import Row, Table

from .seed_runs import Curve, SeedRuns, best_runs, grid_runs


@dataclass(frozen=True)
class StreamResult:
    """The methods on one column of a study.

    Attributes:
        name: Name of the column.
        title: Title of the column.
        metric: Name of the metric that is compared.
        method: The method; without finished runs where it was not run.
        rows: By the name of a row, the method too: its best point, without finished runs where there are none.
        baselines: By the baseline's name: the best of its rows, of those that were run beside the method.
        reserved: Whether nothing was tuned on it.
    """

    name: str
    title: str
    metric: str
    method: SeedRuns
    rows: dict[str, SeedRuns]
    baselines: dict[str, SeedRuns]
    reserved: bool

    @property
    def online(self) -> bool:
        """True if the metric is prequential: every sample is predicted before it is trained on."""
        return is_online(self.metric)


def is_online(metric: str) -> bool:
    """Return whether a metric is a prequential average over the stream, not one of validation samples."""
    return metric.startswith("online_")


def baseline_label(name: str, baseline: SeedRuns) -> str:
    """Return a baseline's name, with ``tuned`` where it is a point of a grid."""
    return f"{name}, tuned" if baseline.setting else name


def compared_rows(table: Table) -> list[Row]:
    """Return the rows of a study that are compared: the method, then those of the baselines in their order."""
    options = table.raw["comparison"]
    named = {row for rows in options["baselines"].values() for row in rows} - {options["method"]}
    method = next(row for row in table.rows if row.name == options["method"])
    return [method, *(row for row in table.rows if row.name in named)]


def learning_rate(row: Row) -> str:
    """Return what the learning rate of a row is: ``none``, ``tuned`` or ``published``."""
    return row.rate or ("tuned" if row.grid else "none")


def compare_streams(table: Table, archive: Archive, seeds: Collection[int] | None = None) -> list[StreamResult]:
    """Return the comparisons on all streams of a study whose file has a ``comparison``.

    Args:
        table: The study.
        archive: Its records.
        seeds: Only these seeds; all by default.

    Raises:
        ValueError: If the study has no comparison, or nothing of it was run.
    """
    options: dict[str, Any] = table.raw.get("comparison") or {}
    if not {"method", "baselines"} <= options.keys():
        raise ValueError(f"{table.name}: its file has no comparison with a method and baselines")
    pool = study_pool(table, archive)
    if pool is None:
        raise ValueError(f"{table.name}: nothing of it was run; see `filtune reproduce`")
    streams = []
    for column in table.columns:
        metric = column.metric or table.metric
        needed = [metric, *(["online_accuracy"] if options.get("recovery") else [])]
        rows = {}
        for row in compared_rows(table):
            name = f"{row.name}/{column.name}"
            points = grid_runs(archive, pool, name, seeds, needed)
            diverged = SeedRuns(name, next((point.records for point in points if point.diverged), {}))
            rows[row.name] = best_runs(points, metric) or diverged
        method = rows[options["method"]]
        groups = {
            name: best_runs((rows[row] for row in named), metric)
            for name, named in options["baselines"].items()
            if method.finished
        }
        baselines = {name: found for name, found in groups.items() if found}
        reserved = column.name in (options.get("reserved") or {}).get("columns", [])
        streams.append(StreamResult(column.name, column.title, metric, method, rows, baselines, reserved))
    return streams


def study_pool(table: Table, archive: Archive) -> Pool | None:
    """Return the cells of a study that were run at its own scale; None if none was."""
    return next((pool for pool in archive.pools.get(table.name, {}).values() if not pool.scale), None)


def samples_to(curve: Curve, score: float, for_good: bool) -> float:
    """Return the samples until a score is reached; infinite if it is not.

    Args:
        curve: Samples and scores.
        score: The score.
        for_good: Whether it is to be kept until the end.
    """
    samples, scores = curve
    reached = scores >= score
    if for_good:
        reached = np.logical_and.accumulate(reached[::-1])[::-1]
    return float(samples[reached.argmax()]) if reached.any() else float("inf")


def convergence_shares(method: SeedRuns, baseline: SeedRuns, metric: str) -> list[float]:
    """Return by seed the samples until the method reaches the baseline's final score, as a share; infinite if never.

    It is a share of the samples that the baseline takes to it, or, on validation samples, of the baseline's whole run.
    """
    online = is_online(metric)  # an average is to stay above it; a validation score fluctuates
    sign, shares = -1 if lower_is_better(metric) else 1, []
    for seed in sorted(method.finished.keys() & baseline.finished.keys()):
        curves = (runs.curve(seed, metric) for runs in (method, baseline))
        own, theirs = ((samples, sign * scores) for samples, scores in curves)
        final = float(theirs[1][-1])
        whole = samples_to(theirs, final, True) if online else theirs[0][-1]
        shares.append(float(samples_to(own, final, online) / whole))
    return shares


class RecoveryRule(NamedTuple):
    """The definition of recovery after a change of the stream.

    Attributes:
        changes: Samples after which the stream changes.
        level: Accuracy over the last samples that is to be reached, in per cent.
        last: Number of these samples, all of them after the change.
        relative: Whether the level is in per cent of the run's own accuracy over as many samples before the change.
    """

    changes: list[int]
    level: float
    last: int
    relative: bool = False


def recovery_rules(table: Table) -> dict[str, RecoveryRule]:
    """Return the recovery rule of each column of a study that has ``comparison.recovery``, else an empty dictionary.

    ``changes`` is one list for all columns, or a dictionary with one for each; a column without changes has no rule.
    ``level`` is an accuracy, ``share`` one relative to that before the change.

    Raises:
        ValueError: If a column's changes are missing.
    """
    options = table.raw["comparison"].get("recovery")
    if not options:
        return {}
    changes = options["changes"]
    by_column = changes if isinstance(changes, dict) else {column.name: changes for column in table.columns}
    missing = [column.name for column in table.columns if column.name not in by_column]
    if missing:
        raise ValueError(f"{table.name}: comparison.recovery.changes has no {missing[0]}")
    relative = "share" in options
    level = options["share" if relative else "level"]
    return {name: RecoveryRule(found, level, options["last"], relative) for name, found in by_column.items() if found}


def recovery_times(curve: Curve, rule: RecoveryRule) -> list[float]:
    """Return the samples from each change until recovery; infinite if the next change, or the end, comes before.

    Args:
        curve: Samples, and the average online accuracy up to them, in per cent.
        rule: The definition of recovery.
    """
    samples, scores = np.concatenate([[0.0], curve[0]]), np.concatenate([[0.0], curve[1]])
    right = samples * scores / 100
    found = []
    for change, end in zip(rule.changes, [*rule.changes[1:], samples[-1]], strict=True):
        at = samples[(samples >= change + rule.last) & (samples <= end)]
        share = _share_right(samples, right, at, rule.last)
        level = rule.level * float(_share_right(samples, right, change, rule.last)) if rule.relative else rule.level
        reached = at[100 * share >= level - 1e-3]  # the curve has five digits
        found.append(float(reached[0] - change) if len(reached) else float("inf"))
    return found


def _share_right(samples: np.ndarray, right: np.ndarray, at: np.ndarray | float, last: int) -> np.ndarray:
    """Return the share of the last samples up to a place that are predicted correctly, of their running count."""
    return (np.interp(at, samples, right) - np.interp(np.asarray(at) - last, samples, right)) / last


def all_recovery_times(method: SeedRuns, rule: RecoveryRule) -> list[float]:
    """Return the recovery times of all seeds and changes."""
    curves = (method.curve(seed, "online_accuracy") for seed in method.finished)
    return [found for curve in curves for found in recovery_times(curve, rule)]


def median_recovery(method: SeedRuns, rule: RecoveryRule) -> float:
    """Return the median recovery time over all seeds and changes."""
    return float(np.median(all_recovery_times(method, rule)))


def recovery_share(method: SeedRuns, baseline: SeedRuns, rule: RecoveryRule) -> float:
    """Return the median recovery time of the method divided by the baseline's; infinite if the method's is never."""
    own, theirs = median_recovery(method, rule), median_recovery(baseline, rule)
    return own / theirs if np.isfinite(own) else float("inf")
