r"""Samples of numbers by name, as vectors of standardised features, for streams whose features come and go.

Each name has a place in the vector, given to it when it is first learned from: in the order in which names come, and
those that come together in the order of their texts. The value of a feature is standardised by the mean and standard
deviation of the values of it that were learned from before (Welford, 1962),

.. math:: z = (x - \bar x) / s, \qquad s^2 = \frac{1}{n} \sum (x_i - \bar x)^2,

and clipped to -5..5. Where all values so far were the same, s = 0, it is the sign of x - x̄; the mean of none is 0.
It is 0 where the feature is missing, or has no place because all are taken. A prediction gives a new name the place it
would get, and keeps nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

FEATURES = 64
"""Places for features, where nothing says how many there are."""

CLIP = 5.0
"""Largest absolute value of a standardised feature, in standard deviations."""

Row = dict[Hashable, float]
"""A sample: its numbers by name, without those that are missing."""


@dataclass(frozen=True)
class Features:
    """The places of features and their running mean and variance; learning from a sample returns a new object.

    Attributes:
        size: Places.
        names: The names that have a place, in their order.
        count: Values seen of each, (F,).
        mean: Their mean, (F,).
        squares: Sum of their squared deviations from it, (F,).
        left_out: Values of features for which there was no place.
    """

    size: int
    names: tuple[Hashable, ...]
    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    left_out: int = 0

    @classmethod
    def empty(cls, size: int) -> Features:
        """Return features before the first sample."""
        return cls(size, (), np.zeros(size), np.zeros(size), np.zeros(size))

    def vectors(self, rows: Sequence[Row]) -> Tensor:
        """Return standardised samples, (B, F)."""
        change = np.stack([self.placed([row])._values(row) for row in rows]) - self.mean
        deviation = np.sqrt(self.squares / np.maximum(self.count, 1))
        with np.errstate(over="ignore"):
            z = np.where(deviation > 0, change / np.where(deviation > 0, deviation, 1.0), np.sign(change))
        return torch.from_numpy(np.nan_to_num(np.clip(z, -CLIP, CLIP))).float()

    def placed(self, rows: Sequence[Row]) -> Features:
        """Return the features with places for the names of samples that have none, as far as there are places."""
        known, added = set(self.names), []
        for row in rows:
            if new := sorted((name for name in row if name not in known), key=str):
                added += new[: self.size - len(self.names) - len(added)]
                known.update(added)
        return replace(self, names=(*self.names, *added)) if added else self

    def learn(self, rows: Sequence[Row]) -> Features:
        """Return the features after further samples: new names have got places, mean and variance have moved."""
        found = self.placed(rows)
        for row in rows:
            found = found._learn_one(row)
        return found

    def _values(self, row: Row) -> np.ndarray:
        """Return the numbers of a sample in their places, (F,), NaN where there is none."""
        found = np.full(self.size, np.nan)
        found[: len(self.names)] = [row.get(name, np.nan) for name in self.names]
        return found

    def _learn_one(self, row: Row) -> Features:
        values = self._values(row)
        seen = ~np.isnan(values)
        count = self.count + seen
        change = np.where(seen, values - self.mean, 0.0)
        mean = self.mean + change / np.maximum(count, 1)
        squares = self.squares + change * np.where(seen, values - mean, 0.0)
        left_out = self.left_out + len(row) - int(seen.sum())
        return replace(self, count=count, mean=mean, squares=squares, left_out=left_out)

    def state(self) -> dict[str, Any]:
        """Return it as a checkpoint holds it."""
        arrays = {name: torch.from_numpy(getattr(self, name).copy()) for name in ("count", "mean", "squares")}
        return {"size": self.size, "names": list(self.names), "left_out": self.left_out, **arrays}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Features:
        """Return the features of a checkpoint."""
        arrays = {name: state[name].double().numpy() for name in ("count", "mean", "squares")}
        return cls(size=state["size"], names=tuple(state["names"]), left_out=state["left_out"], **arrays)


def row_of(x: Any, columns: Sequence[Hashable] = ()) -> Row:
    """Return a sample of numbers by name.

    Args:
        x: A mapping, or a sequence of numbers, whose names are their positions. None and NaN are missing values.
        columns: The names that are read; by default all.

    Raises:
        ValueError: If it is neither, or a value is no finite number.
    """
    if not isinstance(x, Mapping):
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x, dtype=object)
        if array.ndim != 1:
            raise ValueError(f"x: a dict of numbers, or a list of them, is needed; got {type(x).__name__}")
        x = dict(enumerate(array.tolist()))
    chosen = {name: x[name] for name in columns if name in x} if columns else x
    return {name: number for name, value in chosen.items() if (number := _number(name, value)) is not None}


def _number(name: Hashable, value: Any) -> float | None:
    """Return a value as a number, None where it is missing."""
    if value is None:
        return None
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"x: the feature {name!r} is {str(value)[:40]!r}, not a number; encode it first, such as by River's "
            "OneHotEncoder, or leave it out by columns=[...]"
        ) from error
    if math.isinf(number) or abs(number) > 1e150:  # whose square would be
        raise ValueError(f"x: the feature {name!r} is {number}; a finite number below 1e150 is needed")
    return None if math.isnan(number) else number
