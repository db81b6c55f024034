"""Against values by hand: with two degrees of freedom p = 1 - |t| / sqrt(2 + t^2), with one 1 - 2 atan|t| / pi."""

from __future__ import annotations

import math

import pytest
from filtune.reports.statistics import MeanStd, holm, paired, summarise, welch
from hypothesis import given
from hypothesis import strategies as st

T_975 = 4.30265273  # of Student's t with two degrees of freedom


def test_mean_and_sample_deviation() -> None:
    assert summarise([1.0, 2.0, 3.0]) == MeanStd(2.0, 1.0, 3)
    assert summarise([4.0]) == MeanStd(4.0, None, 1)
    assert summarise([]) is None


def test_welch_by_hand() -> None:
    # two and two values of deviation 1: the standard error is 1, with two degrees of freedom
    test = welch(MeanStd(12.0, 1.0, 2), MeanStd(10.0, 1.0, 2))
    assert test is not None
    assert test.p == pytest.approx(1 - 2 / math.sqrt(6), rel=1e-9)
    assert (test.low, test.high) == pytest.approx((2 - T_975, 2 + T_975), rel=1e-8)
    assert not test.significant


def test_welch_with_unequal_deviations_has_fewer_degrees_of_freedom() -> None:
    # all of the variance is in three values: two degrees of freedom, a standard error of 1
    test = welch(MeanStd(5.0, math.sqrt(3), 3), MeanStd(0.0, 0.0, 50))
    assert test is not None
    assert test.p == pytest.approx(1 - 5 / math.sqrt(27), rel=1e-9)
    assert test.significant


@pytest.mark.parametrize("other", [MeanStd(1.0, None, 3), MeanStd(1.0, 0.1, None), MeanStd(1.0, 0.1, 1)])
def test_welch_needs_deviations_and_counts(other: MeanStd) -> None:
    assert welch(MeanStd(2.0, 0.1, 3), other) is None
    assert welch(other, MeanStd(2.0, 0.1, 3)) is None


@pytest.mark.filterwarnings("error")
def test_numbers_that_do_not_vary_do_not_divide_by_zero() -> None:
    same, other = welch(MeanStd(1.0, 0.0, 3), MeanStd(1.0, 0.0, 3)), welch(MeanStd(1.0, 0.0, 3), MeanStd(2.0, 0.0, 3))
    assert same
    assert same.p == 1.0
    assert other
    assert other.p == 0.0
    # 0.1 is not the same distance from 0.3 as from 0.5 in floating point
    assert paired({0: 0.3, 1: 0.5, 2: 0.9}, {0: 0.2, 1: 0.4, 2: 0.8}) is None  # certain of any difference
    equal = paired({0: 0.3, 1: 0.5}, {0: 0.3, 1: 0.5})
    assert equal
    assert equal.p == 1.0


def test_paired_by_hand_over_the_common_seeds() -> None:
    test = paired({0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0}, {0: 0.0, 1: 0.0, 2: 0.0, 8: 9.0})
    assert test is not None
    t = 2 * math.sqrt(3)
    assert test.difference == 2.0
    assert test.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)
    two = paired({0: 1.0, 1: 3.0}, {0: 0.0, 1: 0.0})
    assert two is not None
    assert two.p == pytest.approx(1 - 2 * math.atan(2.0) / math.pi, rel=1e-9)
    assert paired({0: 1.0}, {0: 2.0}) is None
    assert paired({0: 1.0, 1: 2.0}, {1: 2.0, 2: 1.0}) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, None]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_plain_p_and_bonferroni_and_keeps_the_order(values: list[float]) -> None:
    adjusted = holm(values)
    for p, q in zip(values, adjusted, strict=True):
        assert q is not None
        assert p <= q <= 1.0
        assert q <= min(1.0, len(values) * max(p, *[v for v in values if v <= p])) + 1e-12
    order = sorted(range(len(values)), key=lambda i: values[i])
    found = [adjusted[i] for i in order]
    assert found == sorted(found)
