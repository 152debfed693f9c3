"""Paired tests against naive loops, closed forms and Monte Carlo."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly.errors import ConfigError, DataError
from anomaly.quality.paired import bootstrap_difference, delong_test, mcnemar_test


def two_models(seed, n=90, gain=0.8, ties=False):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    common = rng.normal(size=n)
    a, b = (common + rng.normal(labels * shift, 1) for shift in (1 + gain, 1.0))
    return (a.round(), b.round(), labels) if ties else (a, b, labels)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_agrees_with_the_covariances_written_out(ties):
    a, b, labels = two_models(1, ties=ties)

    def kernel(scores):
        bad, good = scores[labels][:, None], scores[~labels]
        return (bad > good) + 0.5 * (bad == good)

    pairs = kernel(a), kernel(b)
    by_bad = np.cov([k.mean(1) for k in pairs]) / labels.sum()
    by_good = np.cov([k.mean(0) for k in pairs]) / (~labels).sum()
    covariance = by_bad + by_good
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = pairs[0].mean() - pairs[1].mean()

    result = delong_test(a, b, labels, confidence=0.9)
    assert result.auroc_a == pytest.approx(roc_auc_score(labels, a))
    assert result.auroc_b == pytest.approx(roc_auc_score(labels, b))
    assert result.difference == pytest.approx(difference)
    assert result.interval == pytest.approx((difference - 1.6448536 * error, difference + 1.6448536 * error))
    assert result.p_value == pytest.approx(math.erfc(abs(difference) / error / math.sqrt(2)))


def test_delong_rejects_equal_models_as_often_as_it_says():
    rejected = sum(delong_test(*two_models(seed, gain=0.0)).p_value < 0.05 for seed in range(600))
    assert rejected / 600 == pytest.approx(0.05, abs=0.025)


def test_models_swapped_turn_the_sign():
    a, b, labels = two_models(2)
    for test in (delong_test, bootstrap_difference):
        there, back = test(a, b, labels), test(b, a, labels)
        assert there.difference == pytest.approx(-back.difference)
        assert there.p_value == pytest.approx(back.p_value)
        assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))


def test_no_variance_is_no_certainty():
    labels = np.arange(20) < 8
    perfect, constant = labels * 1.0, np.ones(20)
    for test in (delong_test, bootstrap_difference):
        same = test(perfect, 2 * perfect, labels)
        assert (same.difference, same.interval, same.p_value) == (0.0, None, 1.0)
        apart = test(perfect, constant, labels)
        assert (apart.difference, apart.interval, apart.p_value) == (0.5, None, None)


def test_bootstrap_agrees_with_delong_where_photos_are_independent():
    a, b, labels = two_models(3, n=300)
    delong, bootstrap = delong_test(a, b, labels), bootstrap_difference(a, b, labels)
    assert bootstrap.auroc_a == pytest.approx(delong.auroc_a)
    assert bootstrap.difference == pytest.approx(delong.difference)
    assert bootstrap.interval == pytest.approx(delong.interval, abs=0.01)


def test_bootstrap_counts_groups_not_photos():
    """Five shots of each part are not five parts: the interval stays; photo by photo it shrinks."""
    a, b, labels = two_models(4)
    shots = [np.repeat(values, 5) for values in (a, b, labels)]
    parts = bootstrap_difference(a, b, labels)
    assert bootstrap_difference(*shots, [f"part {i // 5}" for i in range(450)]) == parts
    alone = bootstrap_difference(*shots).interval
    assert alone[1] - alone[0] < 0.6 * (parts.interval[1] - parts.interval[0])


def test_bootstrap_interval_covers_by_group():
    """Each lot shifts its photos' scores under A only; truth is a difference of zero."""
    rng = np.random.default_rng(5)
    labels = np.tile([0, 0, 1], 40)
    lots = np.repeat(np.arange(24), 5)
    covered = 0
    for seed in range(120):
        a = rng.normal(labels, 1) + rng.normal(size=24)[lots]
        b = rng.normal(labels, 1) + rng.normal(size=24)[lots]
        low, high = bootstrap_difference(
            a, b, labels, [str(lot) for lot in lots], resamples=150, seed=seed
        ).interval
        covered += low <= 0 <= high
    assert 0.88 <= covered / 120 <= 0.99


def test_bootstrap_is_repeatable_and_needs_two_groups_of_each_label():
    a, b, labels = two_models(6)
    assert bootstrap_difference(a, b, labels, seed=9) == bootstrap_difference(a, b, labels, seed=9)
    groups = ["scratch" if bad else f"lot {i}" for i, bad in enumerate(labels)]
    with pytest.raises(DataError, match="needs anomalous photos from 2 groups or more: add photos"):
        bootstrap_difference(a, b, labels, groups)
    with pytest.raises(ConfigError, match="resamples must be 100 or more"):
        bootstrap_difference(a, b, labels, resamples=1)


def test_mcnemar_agrees_with_the_binomial_written_out():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    a = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    b = np.array([1, 1, 0, 0, 0, 0, 0, 1, 1, 1])
    result = mcnemar_test(a, b, labels)
    assert (result.only_a_right, result.only_b_right) == (5, 1)
    assert result.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar_test(b, a, labels).p_value == result.p_value
    assert mcnemar_test(a, a, labels).p_value == 1.0
    assert mcnemar_test([], [], []).p_value == 1.0


def test_mcnemar_by_group_counts_signs_of_groups():
    rng = np.random.default_rng(5)
    labels, a, b = (rng.random(40) < 0.5 for _ in range(3))
    alone = mcnemar_test(a, b, labels, [f"{i}" for i in range(40)])
    assert alone.p_value == pytest.approx(mcnemar_test(a, b, labels).p_value), "each photo a group"
    groups = [f"{i % 7}" for i in range(40)]
    balance = np.zeros(7)
    np.add.at(balance, np.arange(40) % 7, (a == labels).astype(float) - (b == labels))
    signs = 2 * ((np.arange(128)[:, None] >> np.arange(7)) & 1) - 1
    expected = (np.abs(signs @ balance) >= abs(balance.sum())).mean()
    assert mcnemar_test(a, b, labels, groups).p_value == pytest.approx(expected)
    everywhere = mcnemar_test(np.ones(60), np.zeros(60), np.ones(60), ["A", "B", "C"] * 20)
    assert everywhere.p_value == 0.25 and everywhere.groups == 3, "three lots show nothing"


def test_each_auroc_has_an_interval():
    a, b, labels = two_models(3)
    for test in (delong_test(a, b, labels), bootstrap_difference(a, b, labels)):
        for auroc, (low, high) in ((test.auroc_a, test.interval_a), (test.auroc_b, test.interval_b)):
            assert 0 < low < auroc < high < 1
    groups = [f"{i % 6}" for i in range(12)]
    apart = bootstrap_difference(np.arange(12), np.arange(12), np.arange(12) > 5, groups)
    assert apart.interval_a == pytest.approx((0.025 ** (1 / 6), 1.0)), "six groups that never err"


def test_bad_input_is_named():
    a, b, labels = two_models(7)
    for test in (delong_test, bootstrap_difference):
        with pytest.raises(DataError, match="model A scored 90 photos, model B 89: compare them on the same"):
            test(a, b[:-1], labels)
        with pytest.raises(DataError, match="NaN"):
            test(a, b * np.nan, labels)
        with pytest.raises(DataError, match="2"):
            test(a, b, np.zeros(90))
        with pytest.raises(ConfigError, match="confidence"):
            test(a, b, labels, confidence=95)
    with pytest.raises(DataError, match="got 3 normal and 1 anomalous: add photos"):
        delong_test([1.0, 2, 3, 4], [2.0, 1, 3, 4], [0, 0, 0, 1])
    with pytest.raises(DataError, match="3 photos need 3 labels"):
        mcnemar_test([0, 1], [0, 1, 1], [0, 1, 1])
