"""Goals that a study sets its method against the rivals, and whether they are reached."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from filtune.experiments.tables import Table

from .contest import Duel, Stream, label
from .contest_tables import rivals, table
from .recovery import Rule, recovery_share, rules
from .words import DASH

Goal = Mapping[str, float]


class Verdict(NamedTuple):
    """One goal on one stream.

    Attributes:
        goal: What was wanted, in words.
        missed: By how much, in words; empty where it is reached.
    """

    goal: str
    missed: str

    def __str__(self) -> str:
        return f"{self.goal}: {self.missed or '**reached**'}"


class Goals:
    """The goals of a study by the rival's name.

    ``ahead`` is in the units of the figure, ``share`` that of the rival's samples to where it ends, and ``recovery``
    that of the samples it takes after a change.

    Args:
        study: The study.
        streams: What was found on its streams.

    Attributes:
        verdicts: By the names of a stream and a rival.

    Raises:
        ValueError: If a goal names no rival of the study.
    """

    def __init__(self, study: Table, streams: Sequence[Stream]) -> None:
        said: dict[str, Any] = study.raw["contest"]
        self.wanted: Mapping[str, Goal] = said.get("goals") or {}
        unknown = set(self.wanted) - set(said["rivals"])
        if unknown:
            raise ValueError(f"{study.name}: contest.goals names {min(unknown)}, which is no rival")
        self.rules = rules(study)
        self.streams = [
            replace(stream, duels={name: duel for name, duel in stream.duels.items() if name in self.wanted})
            for stream in streams
        ]
        pairs = [(stream, duel) for stream in self.streams for duel in stream.duels.values()]
        self.verdicts = {(stream.name, duel.name): self._judge(stream, duel) for stream, duel in pairs}

    def table(self) -> str:
        """Every goal, by stream and rival."""

        def against(stream: Stream, duel: Duel) -> list[str]:
            return ["; ".join(map(str, self.verdicts[stream.name, duel.name])) or DASH]

        return table(self.streams, [], ["{}"], lambda _: [], against)

    def summary(self) -> str:
        """On how many streams each is reached."""
        found = []
        for name in rivals(self.streams):
            judged = [verdict for (_, rival), ones in self.verdicts.items() if rival == name for verdict in ones]
            wanted = Counter(verdict.goal for verdict in judged)
            reached = Counter(verdict.goal for verdict in judged if not verdict.missed)
            counts = (f"{goal} on {reached[goal]} of {streams}" for goal, streams in wanted.items())
            first = next(stream.duels[name] for stream in self.streams if name in stream.duels)
            found.append(f"{label(name, first)}: {', '.join(counts)}")
        return "; ".join(found)

    def _judge(self, stream: Stream, duel: Duel) -> list[Verdict]:
        goal, rule = self.wanted[duel.name], self.rules.get(stream.name)
        found = (_ahead(duel, goal), _sooner(duel, goal), _recovered(stream, duel, goal, rule))
        return [verdict for verdict in found if verdict]


def _ahead(duel: Duel, goal: Goal) -> Verdict | None:
    if "ahead" not in goal or not duel.differences:
        return None
    wanted = goal["ahead"]
    words = f"at most {-wanted:g} behind" if wanted < 0 else f"{wanted:g} ahead" if wanted else "level"
    return Verdict(words, _missed(wanted - float(np.mean(duel.differences))))


def _sooner(duel: Duel, goal: Goal) -> Verdict | None:
    shares = list(duel.speed.values())
    if "share" not in goal or not shares:
        return None
    never = sum(math.isinf(share) for share in shares)
    missed = _missed(float(np.mean(shares)) - goal["share"])
    words = f"missed, never there with {never} of {len(shares)} seeds" if never else missed
    return Verdict(f"in {goal['share']:g} of the samples", words)


def _recovered(stream: Stream, duel: Duel, goal: Goal, rule: Rule | None) -> Verdict | None:
    if "recovery" not in goal or rule is None:
        return None
    share = recovery_share(stream.method, duel.rival, rule)
    return Verdict(f"right again in {goal['recovery']:g} of the samples", _missed(share - goal["recovery"]))


def _missed(short: float) -> str:
    return "" if short <= 0 else f"missed by {short:.2g}"
