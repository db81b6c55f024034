"""A grid of options: its points, how long each is run, and which are best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .composition import Config, compose, parse_value
from .plan import figure

Point = dict[str, Any]
"""Options by dotted key."""


@dataclass(frozen=True)
class Rung:
    """A round of successive halving (Jamieson and Talwalkar, 2016).

    Attributes:
        samples: Length of the stream; none for that of the configuration.
        kept: How many points go on to the next round.
    """

    samples: int | None
    kept: int


def read_grid(pairs: list[str]) -> dict[str, list[Any]]:
    """Values by dotted key, of ``KEY=VALUE,VALUE``.

    Raises:
        ValueError: If one is not of that form.
    """
    grid = {}
    for pair in pairs:
        key, _, values = pair.partition("=")
        if not key or not values:
            raise ValueError(f"--grid {pair}: is to be KEY=VALUE,VALUE such as --grid optimizer.lr=1e-4,1e-3")
        grid[key] = [parse_value(value) for value in values.split(",")]
    return grid


def rungs(points: int, samples: int | None, rate: int | None) -> list[Rung]:
    """The rounds: each keeps one point of ``rate``, and gives it ``rate`` times the samples; one round without a rate.

    Args:
        points: Points of the grid.
        samples: Samples of the last round, if known.
        rate: How many points one is kept of.

    Raises:
        ValueError: If the rate is too small, or the number of samples unknown.
    """
    last = Rung(None, 1)
    if not rate:
        return [last]
    if rate < 2:
        raise ValueError(f"--halving {rate}: must be at least 2: one point of so many is kept in each round")
    if samples is None:
        raise ValueError("--halving: the length of the stream is not known; say --data.max_samples")
    kept = []
    while points > 1:
        points = math.ceil(points / rate)
        kept.append(points)
    rounds = len(kept)
    return [Rung(max(1, samples // rate ** (rounds - k)), left) for k, left in enumerate(kept)] + [last]


def at(config: Config, point: Point, samples: int | None) -> Config:
    """The configuration at a point, with a stream of so many samples."""
    return compose([], config, point, {"data.max_samples": samples} if samples else {})


def score(keys: list[str], records: Mapping[str, dict[str, Any]], metric: str) -> list[float]:
    """A figure of all seeds of a point, by its runs' keys; nothing where one of them failed or diverged."""
    values = [figure(records[key], metric) for key in keys if key in records]
    numbers = [value for value in values if value is not None]
    return numbers if len(numbers) == len(keys) else []


def rank(values: list[float], metric: str) -> float:
    """What points are sorted by, best first; those without figures last."""
    if not values:
        return math.inf
    return statistics.fmean(values) if lower_is_better(metric) else -statistics.fmean(values)


def lower_is_better(metric: str) -> bool:
    """Whether a figure is the better the lower it is."""
    falling = ("loss", "seconds", "steps_to_convergence", "online_l1", "nll", "brier", "ece")
    return any(word in metric for word in falling)
