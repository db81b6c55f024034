"""How soon a method is right again after its stream has changed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from filtune.experiments.tables import Table

from .contest import Curve, Entrant


class Rule(NamedTuple):
    """When a method has recovered.

    Attributes:
        changes: Samples after which the stream changes.
        level: Per cent of the last samples that are to be right.
        last: How many samples these are; all of them after the change.
    """

    changes: list[int]
    level: float
    last: int


def rules(table: Table) -> dict[str, Rule]:
    """The rules of a study's columns by ``contest.recovery``, whose ``changes`` may differ from one to another.

    Returns:
        None of any column where nothing is said.

    Raises:
        ValueError: If a column's changes are missing.
    """
    said = table.raw["contest"].get("recovery")
    if not said:
        return {}
    changes = said["changes"]
    by_column = changes if isinstance(changes, dict) else {column.name: changes for column in table.columns}
    missing = [column.name for column in table.columns if column.name not in by_column]
    if missing:
        raise ValueError(f"{table.name}: contest.recovery.changes has no {missing[0]}")
    return {name: Rule(found, said["level"], said["last"]) for name, found in by_column.items()}


def recoveries(curve: Curve, rule: Rule) -> list[float]:
    """Samples from every change until the level is reached; infinite where the next change, or the end, comes before.

    Args:
        curve: Samples, and the average online accuracy up to them, in per cent.
        rule: What counts.
    """
    samples, scores = np.concatenate([[0.0], curve[0]]), np.concatenate([[0.0], curve[1]])
    right = samples * scores / 100
    found = []
    for change, end in zip(rule.changes, [*rule.changes[1:], samples[-1]], strict=True):
        at = samples[(samples >= change + rule.last) & (samples <= end)]
        share = (np.interp(at, samples, right) - np.interp(at - rule.last, samples, right)) / rule.last
        reached = at[100 * share >= rule.level - 1e-3]  # the curve has five digits
        found.append(float(reached[0] - change) if len(reached) else float("inf"))
    return found


def all_recoveries(entrant: Entrant, rule: Rule) -> list[float]:
    """Those of all seeds and changes."""
    curves = (entrant.curve(seed, "online_accuracy") for seed in entrant.records)
    return [found for curve in curves for found in recoveries(curve, rule)]


def recovery_share(method: Entrant, rival: Entrant, rule: Rule) -> float:
    """The method's median over the rival's."""
    return float(np.median(all_recoveries(method, rule)) / np.median(all_recoveries(rival, rule)))
