"""Order statistics and what they promise, against ranks written out and Monte Carlo."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binomtest

from anomaly.errors import CalibrationError, ConfigError, DataError
from anomaly.quality.order_statistics import (
    conformal_p_values,
    guaranteed_threshold,
    marginal_threshold,
    smallest_promise,
)


def test_p_values_are_ranks_among_calibration():
    assert conformal_p_values([1, 2, 2, 3], [0, 1, 2, 2.5, 3, 9]) == pytest.approx(
        [1, 1, 0.8, 0.4, 0.4, 0.2], abs=1e-15
    )


@pytest.mark.parametrize("ties", [False, True])
def test_marginal_threshold_is_where_the_p_value_reaches_the_target(ties):
    rng = np.random.default_rng(0)
    for n in (1, 9, 19, 40, 99, 100, 250):
        scores = rng.integers(0, 12, n) if ties else rng.normal(size=n)
        new = np.concatenate([scores, scores + 1e-9, [-99, 99]])
        at_least = (scores >= new[:, None]).sum(1)
        for target in ("0.01", "0.05", "0.1", "0.5"):
            if n < 1 / Fraction(target) - 1:
                continue
            small = [Fraction(int(1 + k), n + 1) <= Fraction(target) for k in at_least]
            assert (new > marginal_threshold(scores, float(target))).tolist() == small


def test_marginal_rank_is_not_lost_to_binary_rounding():
    """1000 * 0.941 is 941; in floats, 1000 * (1 - 0.059) is a little more."""
    assert marginal_threshold(np.arange(1, 1000), 0.059) == 941


def test_marginal_threshold_keeps_its_target_on_average():
    rng = np.random.default_rng(1)
    realised = 1 - np.array([marginal_threshold(rng.random(100), 0.05) for _ in range(2000)])
    assert realised.mean() == pytest.approx(5 / 101, abs=3 * realised.std() / math.sqrt(2000))


@pytest.mark.parametrize(
    ("target", "n", "rank"),
    [
        *((0.01, 299, 1), (0.01, 300, 1), (0.01, 500, 2), (0.01, 1000, 5)),
        *((0.05, 100, 2), (0.05, 200, 5), (0.05, 500, 17), (0.05, 1000, 39)),
    ],
)
def test_guaranteed_threshold_is_the_known_order_statistic(target, n, rank):
    scores = np.random.default_rng(n).permutation(n)
    assert guaranteed_threshold(scores, target) == n - rank


@pytest.mark.parametrize(("target", "n"), [(0.01, 300), (0.05, 100), (0.05, 500)])
def test_guaranteed_threshold_breaks_its_promise_in_one_set_of_twenty_at_most(target, n):
    """Scores are uniform, so the false positive rate of a threshold t is 1 - t."""
    rng = np.random.default_rng(2)
    broken = sum(1 - guaranteed_threshold(rng.random(n), target) > target for _ in range(2000))
    exact = binomtest(broken, 2000, 0.05, alternative="greater").pvalue
    assert exact > 0.001
    assert broken > 2000 * 0.02, "far too strict: photos are wasted"


def test_guarantee_holds_with_ties_and_constant_scores():
    rng = np.random.default_rng(3)
    broken = 0
    for _ in range(1000):
        threshold = guaranteed_threshold(np.floor(rng.random(100) * 50), 0.05)
        broken += (49 - threshold) / 50 > 0.05
    assert broken / 1000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    assert guaranteed_threshold([7.0] * 100, 0.05) == 7.0


def test_too_few_photos_are_told_how_many_and_what_is_possible():
    with pytest.raises(CalibrationError) as error:
        marginal_threshold(np.arange(40), 0.01)
    assert str(error.value) == (
        "target_fpr 0.01 needs at least 99 calibration photos, got 40: "
        "add photos, or set calibration.target_fpr to 0.025 or more"
    )
    with pytest.raises(CalibrationError) as error:
        guaranteed_threshold(np.arange(60), 0.01)
    assert str(error.value) == (
        "target_fpr 0.01 with 95 % confidence needs at least 299 calibration photos, got 60: "
        "add photos, or set calibration.target_fpr to 0.049 or more"
    )
    with pytest.raises(CalibrationError, match=r"set calibration\.target_fpr to 0.999 or more"):
        guaranteed_threshold([1.0], 0.5, 0.999)
    assert smallest_promise(60) == pytest.approx(0.0487, abs=5e-5)
    assert smallest_promise(0) == 1.0


def test_the_cure_in_the_sentence_works():
    for method in (marginal_threshold, guaranteed_threshold):
        for n in range(2, 120):
            with pytest.raises(CalibrationError) as error:
                method(np.arange(n), 0.001)
            cure = float(str(error.value).split(" to ")[1].split()[0])
            method(np.arange(n), cure)
            if cure > 0.011:
                with pytest.raises(CalibrationError):
                    method(np.arange(n), cure * 0.85)


def test_bad_calibration_is_named():
    for method in (marginal_threshold, guaranteed_threshold):
        with pytest.raises(CalibrationError, match="no calibration photos"):
            method([], 0.01)
        with pytest.raises(DataError, match="NaN"):
            method([1, np.nan], 0.01)
        with pytest.raises(ConfigError, match="target_fpr must lie between 0 and 1"):
            method(np.arange(500), 1)
    with pytest.raises(CalibrationError, match="no calibration photos"):
        conformal_p_values([], [1.0])
