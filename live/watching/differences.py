r"""Paired differences of two learners on one stream, with a t-test that allows for their correlation in time.

Samples that follow each other have differences that are alike: both learners are what the samples before made of them.
A t-test of single samples takes that for evidence. The differences are therefore averaged over blocks of consecutive
samples, and the means of b blocks are tested (batch means: Law & Kelton, Simulation Modeling and Analysis, 9.5.3):

.. math:: t = \frac{\bar d}{s / \sqrt b}, \quad b - 1 \text{ degrees of freedom}

with the mean of the block means and their sample standard deviation s. There are at most 64 blocks: when the last is
full, neighbours are merged, so that memory is constant and blocks grow with the stream. Up to 64 samples a block is one
sample, and the test is the paired t-test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MOST_BLOCKS = 64
"""Blocks before neighbours are merged; afterwards there are between 32 and 64."""

LEAST_BLOCKS = 10
"""Blocks without which there is no test."""

LEVEL = 0.05
"""Level of the test, and of the interval at 95 %."""


@dataclass(frozen=True)
class Difference:
    """A mean difference.

    Attributes:
        mean: Mean over all samples.
        low: Lower end of its 95 % interval; None of too few samples.
        high: Upper end.
        p: Two-sided p-value.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def is_significant(self) -> bool:
        """True if it is significant at the level of 5 %."""
        return self.p is not None and self.p < LEVEL


class BlockMeans:
    """Sums of differences over blocks of consecutive samples.

    Attributes:
        count: Differences so far.
        total: Their sum.
        block: Samples in a block.
        sums: Sums over the blocks; the last is of a block that may not be full.
    """

    def __init__(self) -> None:
        self.count, self.total, self.block = 0, 0.0, 1
        self.sums: list[float] = []

    def add(self, difference: float) -> None:
        """Take in the difference of a sample."""
        if self.count % self.block == 0:
            if len(self.sums) == MOST_BLOCKS:
                self.sums = [a + b for a, b in zip(self.sums[::2], self.sums[1::2], strict=True)]
                self.block *= 2
            self.sums.append(0.0)
        self.sums[-1] += difference
        self.total += difference
        self.count += 1

    def difference(self) -> Difference:
        """Return the mean difference, and the test of it; the last block enters the test when it is full."""
        mean = self.total / self.count if self.count else math.nan
        means = [total / self.block for total in self.sums[: self.count // self.block]]
        if len(means) < LEAST_BLOCKS:
            return Difference(mean)
        if max(means) == min(means):  # equal, or whole numbers of few samples: nothing to test
            return Difference(mean, mean, mean, 1.0) if mean == 0 else Difference(mean)
        from scipy.stats import ttest_1samp

        test = ttest_1samp(means, 0)
        low, high = test.confidence_interval(1 - LEVEL)
        half = float(high - low) / 2
        return Difference(mean, mean - half, mean + half, float(test.pvalue))

    def state(self) -> list[Any]:
        """Return everything in plain values."""
        return [self.count, self.total, self.block, list(self.sums)]

    def load(self, state: list[Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.count, self.total, self.block, sums = state
        self.sums = list(sums)
