"""Exact bounds against scipy, closed forms, published plans and exact sums."""

import math
from fractions import Fraction

import pytest
from scipy.stats import binom, binomtest

from anomaly.errors import ConfigError
from anomaly.quality import intervals


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_bounds_agree_with_scipy(confidence):
    for n in (1, 7, 60, 1000):
        for k in {0, 1, n // 3, n - 1, n}:
            two = binomtest(k, n).proportion_ci(confidence)
            assert intervals.clopper_pearson(k, n, confidence) == pytest.approx((two.low, two.high), abs=1e-9)
            upper = binomtest(k, n, alternative="less").proportion_ci(confidence).high
            lower = binomtest(k, n, alternative="greater").proportion_ci(confidence).low
            assert intervals.upper_bound(k, n, confidence) == pytest.approx(upper, abs=1e-9)
            assert intervals.lower_bound(k, n, confidence) == pytest.approx(lower, abs=1e-9)


def test_bounds_that_are_known():
    assert intervals.clopper_pearson(0, 60) == pytest.approx((0, 0.0596), abs=5e-5)
    assert intervals.clopper_pearson(2, 100) == pytest.approx((0.0024, 0.0704), abs=5e-5)
    assert intervals.upper_bound(0, 60) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert intervals.clopper_pearson(0, 0) == (0.0, 1.0)


def test_coverage_of_the_upper_bound_is_never_below_its_confidence():
    n = 40
    for rate in (0.001, 0.02, 0.1, 0.5, 0.93):
        covered = sum(binom.pmf(k, n, rate) for k in range(n + 1) if intervals.upper_bound(k, n) >= rate)
        assert covered >= 0.95


def test_zero_failure_sample_sizes_that_are_known():
    known = {0.1: 29, 0.05: 59, 0.02: 149, 0.01: 299, 0.005: 598, 0.001: 2995}
    assert {rate: intervals.zero_failure_sample_size(rate) for rate in known} == known
    assert intervals.zero_failure_sample_size(1e-6) == math.ceil(math.log(0.05) / math.log1p(-1e-6))


def test_sample_sizes_are_the_smallest_that_show_the_rate():
    assert intervals.sample_sizes(0.05, 0.95, 2) == [59, 93, 124]
    for k, n in enumerate(intervals.sample_sizes(0.03, 0.9, 6)):
        assert binom.cdf(k, n, 0.03) <= 0.1 < binom.cdf(k, n - 1, 0.03)


def test_equality_is_not_lost_to_binary_rounding():
    """(1 - rate)^n = 1 - confidence exactly: n suffices, though floats say 0.09999999999999998 < 0.1."""
    assert intervals.zero_failure_sample_size(0.9, 0.9) == 1
    assert intervals.zero_failure_sample_size(0.9, 0.999) == 3
    assert intervals.zero_failure_sample_size(0.7, 0.91) == 2
    assert intervals.zero_failure_sample_size(0.1, 0.19) == 2
    assert intervals.zero_failure_sample_size(0.2, 0.5904) == 4


@pytest.mark.parametrize("confidence", ["0.5", "0.9", "0.95"])
@pytest.mark.parametrize("rate", ["0.5", "0.1", "0.02"])
def test_allowed_failures_against_exact_sums(rate, confidence):
    p, slack = Fraction(rate), 1 - Fraction(confidence)
    for n in [*range(0, 13), 60, 110, 150]:
        tails = [
            sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)) <= slack for k in range(n)
        ]
        assert intervals.allowed_failures(n, float(rate), float(confidence)) == sum(tails) - 1


def test_allowed_failures_and_bounds_say_the_same():
    for n in (100, 300, 500, 1000):
        k = intervals.allowed_failures(n, 0.05)
        assert intervals.upper_bound(k, n) <= 0.05 < intervals.upper_bound(k + 1, n)
    assert [intervals.allowed_failures(n, 0.01) for n in (298, 299, 300, 500, 1000)] == [-1, 0, 0, 1, 4]


@pytest.mark.parametrize("value", [0, 1, -0.1, 5, float("nan"), float("inf"), "many"])
def test_shares_outside_0_to_1_are_refused(value):
    with pytest.raises(ConfigError, match=r"rate must lie between 0 and 1, both excluded \(1 % is 0.01\)"):
        intervals.sample_sizes(value)
    with pytest.raises(ConfigError, match="confidence"):
        intervals.upper_bound(0, 10, value)


def test_impossible_counts_are_refused():
    for k, n in ((-1, 5), (6, 5), (0, -1)):
        with pytest.raises(ConfigError, match="cannot be"):
            intervals.clopper_pearson(k, n)
    with pytest.raises(ConfigError, match="max_failures"):
        intervals.sample_sizes(0.01, max_failures=-1)
