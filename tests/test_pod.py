"""Probability of detection: against statsmodels, against naive optimisers, and on simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import chi2, norm

from anomaly.errors import ConfigError, DataError
from anomaly.quality.pod import PodFit, fit_pod

SIZES = np.round(np.geomspace(0.3, 4, 80), 3)
HITS = np.array(
    list("00000000000001100101000100000110100001011101110101111111101111011111111111011111"), dtype=int
)
ONE_SIDED_95 = chi2.ppf(0.90, 1)

# statsmodels 0.15.0: GLM(HITS, [1, log SIZES], Binomial(link)).fit(); the bounds are the sizes, or the linear
# predictors at size 1.5, at which the deviance of the one-parameter GLM with an offset has risen by
# ONE_SIDED_95, found by scipy's brentq.
STATSMODELS = {
    "logit": {
        "parameters": (0.12312664, 2.25104626),
        "covariance": (0.0823875, 0.00215944, 0.23396588),
        "slope_p_value": 3.1340651924233877e-09,
        "a50": 0.9467714875829564,
        "a90": (2.5127879029479465, 1.81317980022672, 4.15476447298294),
        "curve": (0.7380479557676302, 0.6212312798162515, 0.839792836151275),
    },
    "probit": {
        "parameters": (0.06121135, 1.31706365),
        "covariance": (0.02729307, -0.00087882, 0.06548417),
        "slope_p_value": 3.254249601431905e-09,
        "a50": 0.9545878296298762,
        "a90": (2.525808731550466, 1.8784978981001068, 3.9929907020936337),
        "curve": (0.7241567043776196, 0.6139810811485226, 0.8219140909405802),
    },
}


def study(rng, defects, *, slope=3.0, floor=0.0, ceiling=1.0, sizes=(0.25, 4.0)):
    """Log-uniform sizes, and hits by a logistic curve with a50 = 1."""
    log_sizes = rng.uniform(*np.log(sizes), defects)
    hits = rng.random(defects) < floor + (ceiling - floor) * expit(slope * log_sizes)
    return np.exp(log_sizes), hits.astype(int)


def naive_deviance(sizes, hits, theta, blanks=(0, 0)):
    """-2 log-likelihood of the logistic curve theta = (a, b, g, d), term by term."""
    a, b, g, d = theta
    total = 0.0
    for size, hit in zip(sizes, hits, strict=True):
        pod = g + (d - g) / (1 + np.exp(-a - b * np.log(size)))
        total += np.log(pod if hit else 1 - pod)
    if blanks[1]:
        total += blanks[0] * np.log(g) + (blanks[1] - blanks[0]) * np.log(1 - g)
    return -2 * total


def theta_of(fit: PodFit) -> np.ndarray:
    return np.array(list(fit.parameters.values()))


@pytest.mark.parametrize("link", STATSMODELS)
def test_agrees_with_statsmodels(link):
    golden = STATSMODELS[link]
    fit = fit_pod(SIZES, HITS, link=link, adjusted=False)
    assert_allclose(theta_of(fit), [*golden["parameters"], 0, 1], rtol=1e-6)
    assert_allclose(fit.covariance[[0, 0, 1], [0, 1, 1]], golden["covariance"], rtol=1e-4)
    assert_allclose(fit.slope_p_value, golden["slope_p_value"], rtol=1e-6)
    assert_allclose(fit.a50, golden["a50"], rtol=1e-7)
    assert_allclose(fit.size_at(0.9), golden["a90"], rtol=1e-7)
    assert (fit.a90, fit.a90_95) == (fit.size_at(0.9)[0], fit.size_at(0.9)[2])
    assert_allclose([x[0] for x in fit.curve([1.5])], golden["curve"], rtol=1e-6)
    assert not fit.penalised
    assert [words.startswith("a90/95 =") for words in fit.warnings] == [True] * (fit.a90_95 > 4)


def test_adjusted_bound_agrees_with_the_closed_form_of_logistic_regression():
    """Davison, JRSS B 50 (1988): r* = r + log(u / r) / r for a linear combination of the coefficients, with
    u = difference * sqrt(|I at the top| / I of the slope at the constrained top)."""
    fit = fit_pod(SIZES, HITS)
    a, b = theta_of(fit)[:2]
    z = np.log(SIZES / fit.a90_95)
    target = np.log(9)

    def loss(slope):
        return -np.sum(
            np.where(HITS, -np.logaddexp(0, -target - slope * z), -np.logaddexp(0, target + slope * z))
        )

    constrained = minimize_scalar(loss, bounds=(0, 10), method="bounded", options={"xatol": 1e-10})
    root = np.sqrt(
        naive_deviance(SIZES, HITS, (target - constrained.x * np.log(fit.a90_95), constrained.x, 0, 1))
        - naive_deviance(SIZES, HITS, (a, b, 0, 1))
    )
    pod = expit(a + b * np.log(SIZES))
    design = np.stack([np.ones_like(z), z])
    information = design @ ((pod * (1 - pod))[:, None] * design.T)
    held = expit(target + constrained.x * z)
    of_slope = np.sum(held * (1 - held) * z**2)
    u = (a + b * np.log(fit.a90_95) - target) * np.sqrt(np.linalg.det(information) / of_slope)
    assert_allclose(root + np.log(u / root) / root, norm.ppf(0.95), rtol=1e-6)
    assert fit.a90_95 > fit_pod(SIZES, HITS, adjusted=False).a90_95
    assert "Skovgaard" in fit.method


def test_firth_on_separated_data_agrees_with_firthmodels():
    # firthmodels 0.8.2, FirthLogisticRegression(gtol=1e-10) on log(sizes / s), for s = 1 and 2: its intercept
    # is then the linear predictor at s, and conf_int(alpha=0.1, method="pl") the penalised profile bounds.
    sizes = np.round(np.geomspace(0.3, 4, 40), 3)
    fit = fit_pod(sizes, sizes > 1.2)
    assert fit.penalised and any("Firth" in words for words in fit.warnings)
    assert_allclose(theta_of(fit)[:2], [-1.98763512, 12.61880318], rtol=1e-6)
    pod, lower, upper = fit.curve([1.0, 2.0])
    assert_allclose(pod, expit([-1.9876351235307477, 6.759052727485375]), rtol=1e-6)
    assert_allclose(lower, expit([-9.28055279, 2.33445908]), rtol=1e-5)
    assert_allclose(upper, expit([-0.16456483, 30.91736959]), rtol=1e-5)


def test_firth_maximises_likelihood_plus_half_the_log_determinant_for_probit():
    sizes = np.geomspace(0.3, 4, 30)
    z, hits = np.log(sizes), sizes > 1.3

    def loss(theta):
        eta = theta[0] + theta[1] * z
        weight = norm.pdf(eta) ** 2 / (norm.cdf(eta) * norm.sf(eta))
        design = np.stack([np.ones_like(z), z])
        information = design @ (weight[:, None] * design.T)
        return (
            -np.sum(np.where(hits, norm.logcdf(eta), norm.logsf(eta))) - np.linalg.slogdet(information)[1] / 2
        )

    naive = minimize(loss, [0, 1], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    assert_allclose(theta_of(fit_pod(sizes, hits, link="probit"))[:2], naive.x, rtol=1e-4)


def test_asymptotes_agree_with_a_naive_optimiser():
    sizes, hits = study(np.random.default_rng(3), 200, slope=5, floor=0.08, ceiling=0.96)
    blanks = (11, 120)
    fit = fit_pod(sizes, hits, false_calls=blanks, upper_asymptote=True, adjusted=False)

    def loss(free):
        _, _, g, d = free
        return naive_deviance(sizes, hits, free, blanks) if 0 < g < d < 1 else 1e9

    options = {"xatol": 1e-7, "fatol": 1e-9, "maxiter": 5000, "maxfev": 5000}
    naive = minimize(loss, [0, 4, 0.1, 0.9], method="Nelder-Mead", options=options)
    assert_allclose(theta_of(fit), naive.x, rtol=1e-4)

    size, _, bound = fit.size_at(0.8)
    a, b, g, d = theta_of(fit)
    assert_allclose(g + (d - g) * expit(a + b * np.log(size)), 0.8, rtol=1e-9)

    def constrained(free):
        b, g, d = free
        if not (0 < g < 0.8 < d < 1):
            return 1e9
        share = (0.8 - g) / (d - g)
        return loss([np.log(share / (1 - share)) - b * np.log(bound), b, g, d])

    at_bound = minimize(constrained, naive.x[1:], method="Nelder-Mead", options=options)
    assert_allclose(at_bound.fun - naive.fun, ONE_SIDED_95, atol=1e-4)


def test_upper_asymptote_is_tested_for():
    rng = np.random.default_rng(0)
    sizes, hits = study(rng, 300, slope=5, ceiling=0.8)
    fit = fit_pod(sizes, hits)
    assert fit.asymptote_p_value < 0.01
    assert 0.7 < fit.parameters["upper_asymptote"] < 0.9
    assert fit.a50 is not None and fit.a90 is None and fit.a90_95 is None
    assert any("never reaches 0.90" in words for words in fit.warnings)
    assert fit_pod(sizes, hits, upper_asymptote=False).parameters["upper_asymptote"] == 1

    p_values = [fit_pod(*study(rng, 150)).asymptote_p_value for _ in range(25)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.16


def test_lower_bound_that_never_reaches_90_percent_is_said():
    sizes, hits = study(np.random.default_rng(8), 200, slope=6, ceiling=0.9)
    fit = fit_pod(sizes, hits, upper_asymptote=True)
    assert fit.a90 is not None and fit.a90_95 is None
    assert any("there is no a90/95" in words for words in fit.warnings)


def test_blanks_carry_the_false_call_rate():
    sizes, hits = study(np.random.default_rng(1), 200, floor=0.1)
    fit = fit_pod(sizes, hits, false_calls=(30, 300))
    assert 0.07 < fit.parameters["false_call_rate"] < 0.13
    assert_allclose(fit.curve([0.01])[0], fit.parameters["false_call_rate"], atol=1e-3)
    assert "30 calls on 300 blanks" in fit.method

    none_called = fit_pod(SIZES, HITS, false_calls=(0, 50))
    assert none_called.parameters["false_call_rate"] == 0
    assert_allclose(none_called.a90_95, fit_pod(SIZES, HITS).a90_95, rtol=1e-6)


def test_curve_and_sizes_are_one_region():
    for fit in (
        fit_pod(SIZES, HITS),
        fit_pod(SIZES, HITS, link="probit", false_calls=(2, 40), confidence=0.9),
    ):
        for pod in (0.5, 0.9):
            size, lower, upper = fit.size_at(pod)
            assert lower < size < upper
            assert_allclose(fit.curve([size])[0], pod, rtol=1e-9)
            assert_allclose(fit.curve([lower])[2], pod, rtol=1e-6)
            assert_allclose(fit.curve([upper])[1], pod, rtol=1e-6)
    pod, lower, upper = fit.curve(np.geomspace(1e-2, 1e2, 8))
    assert np.all((lower <= pod) & (pod <= upper))
    assert np.all(np.diff(pod) >= 0) and np.all(np.diff(lower) >= -1e-9) and np.all(np.diff(upper) >= -1e-9)


def test_unit_and_order_do_not_matter():
    fit, order = fit_pod(SIZES, HITS), np.random.default_rng(0).permutation(len(SIZES))
    other = fit_pod(SIZES[order] * 25.4, HITS[order])
    for name in ("a50", "a90", "a90_95"):
        assert_allclose(getattr(other, name), 25.4 * getattr(fit, name), rtol=1e-9)
    assert_allclose(other.curve(SIZES * 25.4), fit.curve(SIZES), rtol=1e-6)


def test_more_confidence_is_a_wider_region():
    bounds = [fit_pod(SIZES, HITS, confidence=c).a90_95 for c in (0.8, 0.9, 0.95, 0.99)]
    assert np.all(np.diff(bounds) > 0)


GRADED = np.geomspace(0.3, 4, 40)


def test_sizes_that_mean_nothing_are_not_given():
    chance = fit_pod(SIZES[:40], np.arange(40) % 8 > 0)
    assert not chance.region.shown and (chance.a50, chance.a90, chance.a90_95) == (None,) * 3
    assert any("so no size is given" in words for words in chance.warnings)

    free = fit_pod(SIZES[:60], HITS[:60], unit="px")
    held = fit_pod(SIZES[:60], HITS[:60], unit="px", most=0.9 * free.a90_95)
    assert held.a90_95 is None and held.a50 == free.a50
    assert any("a90/95 would be larger than a photo holds" in words for words in held.warnings)
    assert not any(f"{free.a90_95:.3g}" in words for words in held.warnings)

    log_sizes = np.linspace(0, 3, 600)
    found = np.random.default_rng(0).random(600) < expit(2 + 0.5 * log_sizes)
    small = fit_pod(np.exp(log_sizes), found, upper_asymptote=False)
    assert small.region.bounded and small.a50 is None and small.region.size_at(0.5) < 0.25
    assert any("a50 would lie far below the smallest defect" in words for words in small.warnings)


@pytest.mark.parametrize(
    ("sizes", "hits", "words"),
    [
        (GRADED, np.ones(40), "All 40 defects were found"),
        (GRADED, np.zeros(40), "All 40 defects were missed"),
        (GRADED, GRADED < 1, "not found more often"),
        (GRADED, np.arange(40) % 2, "Chance could explain"),
        (GRADED, GRADED > 1, "step from misses to hits"),
        (SIZES[40:], HITS[40:], "already found more often than not"),
        (SIZES[:60], HITS[:60], "beyond the largest defect"),
        ([1.0, 2.0, 3.0], [0, 1, 1], "3 defects are few"),
    ],
)
@pytest.mark.parametrize("link", ["logit", "probit"])
def test_weak_data_are_answered_in_words(sizes, hits, words, link):
    fit = fit_pod(sizes, hits, link=link)
    assert any(words in sentence for sentence in fit.warnings)
    assert all(np.all(np.isfinite(x)) for x in fit.curve([0.01, 1, 100]))
    if words.startswith("All") or "more often" in words[:20]:
        assert fit.a50 is None and fit.a90 is None and fit.a90_95 is None
    if words.startswith("Chance"):
        assert fit.a90_95 is None


def test_all_found_bounds_the_mean_pod():
    # 29 of 29: POD of 0.90 at 95 % confidence.
    words = " ".join(fit_pod(np.linspace(1, 2, 29), np.ones(29)).warnings)
    assert "0.902 or more on average" in words


@pytest.mark.parametrize(
    ("sizes", "hits", "options", "error", "words"),
    [
        ([], [], {}, DataError, "sizes must be a list"),
        (["small"], [1], {}, DataError, "sizes must be a list of numbers"),
        ([1, -1], [0, 1], {}, DataError, "above 0"),
        ([1, np.nan], [0, 1], {}, DataError, "above 0"),
        ([1, 2], [0, 0.5], {}, DataError, "threshold"),
        ([1, 2, 3], [0, 1], {}, DataError, "3 sizes came with 2 hits"),
        ([2, 2, 2], [0, 1, 1], {}, DataError, "several sizes"),
        ([1, 2], [0, 1], {"false_calls": (3, 2)}, DataError, "3 calls on 2 blanks"),
        ([1, 2], [0, 1], {"false_calls": (0, 0)}, DataError, "at least one blank"),
        ([1, 2], [0, 1], {"false_calls": (5, 5)}, DataError, "raise the threshold"),
        ([1, 2], [0, 1], {"link": "probitt"}, ConfigError, "did you mean 'probit'"),
        ([1, 2], [0, 1], {"confidence": 95}, ConfigError, "0.95"),
    ],
)
def test_refusals_name_the_cure(sizes, hits, options, error, words):
    with pytest.raises(error, match=words):
        fit_pod(sizes, hits, **options)


def test_pod_asked_for_lies_between_0_and_1():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        fit_pod(SIZES, HITS).size_at(90)
