"""Means, standard deviations and t-tests: against a published mean, paired by seed, and corrected for many tests."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

LEVEL = 0.05
"""Level of every test."""


@dataclass(frozen=True)
class MeanStd:
    """Mean and standard deviation of several runs.

    Attributes:
        mean: Their mean.
        deviation: Their sample standard deviation; None for a single run, or where it is not published.
        count: How many there are; none where it is not published.
    """

    mean: float
    deviation: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class TTest:
    """A difference of two means.

    Attributes:
        difference: First mean minus the second.
        p: Two-sided p-value.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        adjusted: The p-value after Holm's correction, where it is one of several tests.
    """

    __test__ = False  # not one of pytest's

    difference: float
    p: float
    low: float
    high: float
    adjusted: float | None = None

    @property
    def significant(self) -> bool:
        """True if the difference is significant at the level of 5 %."""
        return self.p < LEVEL


def summarise(values: Sequence[float]) -> MeanStd | None:
    """Return mean and sample standard deviation; None for no values.

    They are of exact sums, unlike numpy's and pandas': accuracies are whole numbers of samples, and a mean that is half
    way between two decimals is to round alike everywhere.
    """
    if not values:
        return None
    return MeanStd(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def welch(a: MeanStd, b: MeanStd) -> TTest | None:
    r"""Return Welch's t-test of two means, :math:`t = (m_a - m_b) / \sqrt{s_a^2 / n_a + s_b^2 / n_b}`.

    Args:
        a: The first sample.
        b: The second.

    Returns:
        The test; None where a deviation is not known or there is only one run.
    """
    if a.deviation is None or b.deviation is None or min(a.count or 0, b.count or 0) < 2:
        return None
    difference = a.mean - b.mean
    if a.deviation == b.deviation == 0:
        return _exact(difference)
    from scipy.stats import t, ttest_ind_from_stats

    p = ttest_ind_from_stats(a.mean, a.deviation, a.count, b.mean, b.deviation, b.count, equal_var=False).pvalue
    parts = [s.deviation**2 / s.count for s in (a, b)]  # type: ignore[operator]
    freedom = sum(parts) ** 2 / sum(v**2 / (s.count - 1) for v, s in zip(parts, (a, b), strict=True))  # type: ignore[operator]
    return TTest(difference, float(p), *map(float, t.interval(1 - LEVEL, freedom, difference, math.sqrt(sum(parts)))))


def seed_differences(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """Return first minus second values of the seeds that both have, in order."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> TTest | None:
    """Return the paired t-test of the differences by seed.

    Args:
        a: First values by seed.
        b: Second values by seed.

    Returns:
        The test; None where fewer than two seeds are common to both, or where all of them differ by the same: such
        scores are whole numbers of few samples, and the test would be certain of any difference.
    """
    found = seed_differences(a, b)
    sample = summarise(found)
    if sample is None or sample.deviation is None:
        return None
    if sample.deviation <= 1e-12 * max(1.0, abs(sample.mean)):  # equal but for rounding
        return _exact(0.0) if sample.mean == 0 else None
    from scipy.stats import ttest_1samp

    test = ttest_1samp(found, 0)
    return TTest(sample.mean, float(test.pvalue), *map(float, test.confidence_interval(1 - LEVEL)))


def _exact(difference: float) -> TTest:
    """Return the test of numbers without variance: equal, or not."""
    return TTest(difference, 1.0 if difference == 0 else 0.0, difference, difference)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values, in order; None stays None and does not count.

    Scipy has no Holm, and statsmodels, which has, would be a package more for these lines.
    """
    import pandas as pd

    p = pd.Series(values, dtype=float).dropna().sort_values()
    adjusted = (p * range(len(p), 0, -1)).cummax().clip(upper=1.0)
    return [adjusted.get(i) for i in range(len(values))]


def with_holm(tests: Sequence[TTest | None]) -> list[TTest | None]:
    """Return tests with Holm's correction over all of them; None stays None and does not count."""
    adjusted = holm([test and test.p for test in tests])
    return [test and replace(test, adjusted=p) for test, p in zip(tests, adjusted, strict=True)]
