"""Bounds of POD curves on studies that are hard to bound, and how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit
from scipy.stats import norm
from test_pod import GRADED

from anomaly.quality.pod import fit_pod


def stepwise(seed, defects, at, slope, blanks, calls, levels=None):
    """A study (sizes, hits, blanks) of steep or shallow curves over few blanks, some of them called."""
    rng = np.random.default_rng(seed)
    log_sizes = rng.uniform(*np.log([0.25, 4]), defects) if levels is None else np.log(np.repeat(*levels))
    floor = calls / blanks if blanks else 0
    hits = rng.random(len(log_sizes)) < floor + (1 - floor) * expit(slope * (log_sizes - np.log(at)))
    return np.exp(log_sizes), hits.astype(int), (calls, blanks) if blanks else None


NEARLY_SEPARATED = (
    np.array([4.0] * 6 + [5.0, 5.0, 5.5, *np.linspace(5.6, 30, 51)]),
    np.array([1, 1, 1, 0, 1, 1, 1, 0, 0, *[1] * 51]),
    (6, 25),
)
HARD = {
    "nearly separated, few blanks": NEARLY_SEPARATED,
    "one swap, no blanks": (GRADED, np.where(np.isin(np.arange(40), (19,)), 1, GRADED > 1.2), None),
    "steep, 8 blanks": stepwise(1, 60, 1, 12, 8, 2),
    "steep, 25 blanks": stepwise(2, 100, 0.6, 12, 25, 5),
    "shallow, 25 blanks": stepwise(3, 100, 0.8, 2.5, 25, 1),
    "five sizes": stepwise(4, 0, 1, 6, 25, 4, levels=([0.25, 0.5, 1, 2, 4], 7)),
    "no false call": stepwise(5, 30, 0.7, 6, 25, 0),
}


def region_of(fit):
    """Curves (J, 4) of a grid that lie in the region of a fit without an upper asymptote."""
    likelihood = fit.region.likelihood
    floor = np.linspace(0, 0.8, 25) if likelihood.blanks else np.zeros(1)
    middle, slope = np.linspace(-3, 3, 81), np.geomspace(0.1, 60, 40)
    m, b, g = (x.ravel() for x in np.meshgrid(middle, slope, floor))
    theta = np.stack([-b * m, b, g, np.ones(len(b))], axis=1)
    return theta[2 * (fit.region.top - likelihood.value(theta)) <= fit.region.reach**2]


@pytest.mark.parametrize("name", HARD)
def test_bounds_rise_with_the_curve_and_hold_every_curve_of_the_region(name):
    sizes, hits, blanks = HARD[name]
    fit = fit_pod(sizes, hits, false_calls=blanks, upper_asymptote=False)
    at = np.geomspace(sizes.min(), sizes.max(), 13)
    pod, lower, upper = fit.curve(at)
    assert np.all((lower <= pod) & (pod <= upper)) and np.all(np.diff([lower, upper]) >= 0)
    curves = region_of(fit)
    z = (np.log(at) - fit.region.centre) / fit.region.scale
    inside = np.stack([fit.region.likelihood.pod(curves, np.full(len(curves), x)) for x in z])
    assert np.all(lower <= inside.min(axis=1) + 2e-3) and np.all(upper >= inside.max(axis=1) - 2e-3)
    alone = np.array([fit.curve([size])[1][0] for size in at[::4]])
    assert_allclose(alone, lower[::4], atol=0.03)
    assert np.all(alone <= inside.min(axis=1)[::4] + 0.03)
    if fit.a90_95 is not None:
        # A curve may step at a defect's size, and so may the bound: it passes 0.9 there, from below.
        around = fit.curve(fit.a90_95 * np.array([0.999, 1, 1.001]))[1]
        assert around[0] < 0.9 < around[2] and abs(around[1] - 0.9) < 5e-3
        assert np.all(lower[at > 1.001 * fit.a90_95] > 0.9) and np.all(lower[at < fit.a90_95] < 0.9)


def test_bound_of_nearly_separated_data_does_not_collapse():
    sizes, hits, blanks = NEARLY_SEPARATED
    fit = fit_pod(sizes, hits, false_calls=blanks)
    assert fit.a90_95 is not None
    assert np.all(fit.curve(np.geomspace(fit.a90_95, 30, 30))[1] >= 0.899)


def covered(rng, studies, defects, link, blanks):
    """Share of simulated studies whose a90/95 is not below the true a90, and the median of a90/95 / a90."""
    cdf, quantile = (expit, np.log(9)) if link == "logit" else (norm.cdf, norm.ppf(0.9))
    slope, floor = quantile / np.log(2), 0.05 if blanks else 0.0
    share = (0.9 - floor) / (1 - floor)
    true = np.exp((np.log(share / (1 - share)) if link == "logit" else norm.ppf(share)) / slope)
    ratios = []
    for _ in range(studies):
        log_sizes = rng.uniform(np.log(0.25), np.log(4), defects)
        hits = rng.random(defects) < floor + (1 - floor) * cdf(slope * log_sizes)
        calls = (int(rng.binomial(blanks, floor)), blanks) if blanks else None
        bound = fit_pod(np.exp(log_sizes), hits, link=link, false_calls=calls).a90_95
        ratios.append(np.inf if bound is None else bound / true)
    return np.mean(np.array(ratios) >= 1), np.median(ratios)


def test_bound_covers_in_a_few_simulated_studies():
    coverage, ratio = covered(np.random.default_rng(5), 50, 100, "logit", 0)
    assert coverage >= 0.88
    assert 1.1 < ratio < 1.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defects", "link", "blanks"),
    [(100, "logit", 0), (100, "probit", 0), (200, "logit", 0), (120, "logit", 100)],
)
def test_bound_covers_in_93_to_97_percent_of_1000_studies(defects, link, blanks):
    """With 500 chance alone moves the share by 1 % (standard error), and one of four may leave the range."""
    coverage, _ = covered(np.random.default_rng(11), 1000, defects, link, blanks)
    assert 0.93 <= coverage <= 0.97
