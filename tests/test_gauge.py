"""The gauge study: against loops written here, published counts, and other packages' numbers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from anomaly.errors import ConfigError, DataError
from anomaly.quality.agreement import Part
from anomaly.quality.gauge import gauge_study


def parts_from(decisions, reference=None, scores=None, manual=None):
    n = len(decisions)
    return [
        Part(
            name=f"part {i}",
            rejected=[bool(d) for d in decisions[i]],
            scores=() if scores is None else scores[i],
            defective=None if reference is None else reference[i],
            manual=None if manual is None else manual[i],
        )
        for i in range(n)
    ]


def simulated(seed, n=40, repeats=(3, 3), found=0.85, called=0.1):
    rng = np.random.default_rng(seed)
    reference = [bool(i % 3 == 0) for i in range(n)]
    decisions = [
        list(rng.random(rng.integers(repeats[0], repeats[1] + 1)) < (found if bad else called))
        for bad in reference
    ]
    return decisions, reference


# AIAG, Measurement Systems Analysis, attribute study, appraiser A against the reference: 50 parts 3 times, 45
# of 48 decisions on defective parts and 97 of 102 on good ones right, 42 parts right every time.
AIAG_A = [[1, 1, 0]] * 3 + [[1, 1, 1]] * 13 + [[0, 0, 1]] * 5 + [[0, 0, 0]] * 29
AIAG_REFERENCE = [True] * 16 + [False] * 34


def test_published_study():
    study = gauge_study(parts_from(AIAG_A, AIAG_REFERENCE))
    assert (study.parts, study.photos) == (50, (3, 3))
    assert round(study.effectiveness.value, 2) == 0.84
    assert (study.effectiveness.count, study.effectiveness.total, study.effectiveness.verdict) == (
        42,
        50,
        "marginal",
    )
    assert (study.miss_rate.count, study.miss_rate.total, study.miss_rate.parts) == (3, 48, 16)
    assert round(study.miss_rate.value, 3) in (0.062, 0.063) and study.miss_rate.verdict == "unacceptable"
    assert (study.false_alarm_rate.count, study.false_alarm_rate.total) == (5, 102)
    assert round(study.false_alarm_rate.value, 3) == 0.049
    assert study.false_alarm_rate.verdict == "acceptable"
    assert study.false_alarm_rate.verdict_at_bound == "unacceptable"
    assert round(study.kappa_reference.value, 2) == 0.88 and study.kappa_reference.verdict == "good"
    assert (study.alike.count, study.alike.total) == (42, 50)


@pytest.mark.parametrize(
    ("wrong", "of", "verdict"),
    [(0, 50, "acceptable"), (1, 50, "acceptable"), (2, 50, "marginal"), (3, 50, "unacceptable")],
)
def test_limits_of_the_miss_rate(wrong, of, verdict):
    decisions = [[0]] * wrong + [[1]] * (of - wrong) + [[0]] * 5
    study = gauge_study(parts_from(decisions, [True] * of + [False] * 5))
    assert study.miss_rate.verdict == verdict


def test_interval_is_clopper_pearson_on_parts():
    decisions, reference = simulated(1, repeats=(1, 1))
    study = gauge_study(parts_from(decisions, reference), confidence=0.9)
    for rate in (study.effectiveness, study.miss_rate, study.false_alarm_rate):
        exact = stats.binomtest(rate.count, rate.total).proportion_ci(0.9, method="exact")
        assert_allclose((rate.lower, rate.upper), (exact.low, exact.high), rtol=1e-9)
    # Copies of every decision add no evidence.
    thrice = gauge_study(parts_from([d * 3 for d in decisions], reference), confidence=0.9)
    assert_allclose(thrice.miss_rate.upper, study.miss_rate.upper, rtol=1e-12)
    assert thrice.miss_rate.total == 3 * study.miss_rate.total


def naive_rates(decisions, reference):
    right, missed, bad, called, good = 0, 0, 0, 0, 0
    for looks, defective in zip(decisions, reference, strict=True):
        right += all(bool(look) == defective for look in looks)
        for look in looks:
            bad, good = bad + defective, good + (not defective)
            missed += defective and not look
            called += (not defective) and bool(look)
    return right / len(decisions), missed / bad, called / good


def naive_cohen(decisions, reference):
    """Value and error, the influence of each pair taken by a change of its weight in the 2 x 2 table: the
    derivative by a complex step, which rounds nothing off."""
    pairs = [(bool(d), r, i) for i, (ds, r) in enumerate(zip(decisions, reference, strict=True)) for d in ds]

    def kappa(weights):
        table = {cell: 0.0j for cell in itertools.product((True, False), repeat=2)}
        for weight, (d, r, _) in zip(weights, pairs, strict=True):
            table[d, r] += weight
        total = sum(table.values())
        observed = (table[True, True] + table[False, False]) / total
        chance = sum(
            (table[x, True] + table[x, False]) * (table[True, x] + table[False, x]) for x in (True, False)
        )
        chance /= total**2
        return (observed - chance) / (1 - chance)

    h, weights = 1e-30, np.ones(len(pairs))
    by_part = [0.0] * len(decisions)
    for index, (_, _, part) in enumerate(pairs):
        step = np.zeros(len(pairs), complex)
        step[index] = h * 1j
        by_part[part] += kappa(weights + step).imag / h
    return kappa(weights).real, math.sqrt(sum(x**2 for x in by_part))


def naive_fleiss(decisions):
    """Value and error of the definition: pairs of looks at one part, against shares of all parts."""
    used = [d for d in decisions if len(d) > 1]
    n = len(used)
    share = sum(sum(d) / len(d) for d in used) / n
    chance = share**2 + (1 - share) ** 2
    agree = []
    for d in used:
        pairs = list(itertools.combinations(d, 2))
        agree.append(sum(bool(x) == bool(y) for x, y in pairs) / len(pairs))
    mean = sum(agree) / n
    value = (mean - chance) / (1 - chance)
    terms = []
    for d, a in zip(used, agree, strict=True):
        own = sum(d) / len(d)
        expected = share * own + (1 - share) * (1 - own)
        terms.append((a - chance) / (1 - chance) - 2 * (1 - value) * (expected - chance) / (1 - chance))
    return value, math.sqrt(sum((t - value) ** 2 for t in terms) / (n * (n - 1)))


def naive_anova(scores):
    k, total = len(scores), sum(len(s) for s in scores)
    grand = sum(sum(s) for s in scores) / total
    within = between = 0.0
    for s in scores:
        mean = sum(s) / len(s)
        within += sum((x - mean) ** 2 for x in s)
        between += len(s) * (mean - grand) ** 2
    each = (total - sum(len(s) ** 2 for s in scores) / total) / (k - 1)
    within /= total - k
    between /= k - 1
    return math.sqrt(within), math.sqrt(max(0.0, (between - within) / each))


@pytest.mark.parametrize("repeats", [(3, 3), (2, 5), (1, 4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_loops(seed, repeats):
    decisions, reference = simulated(seed, repeats=repeats)
    rng = np.random.default_rng(seed)
    scores = [
        list(rng.normal(2.0 * bad + rng.normal(), 0.3, len(d)))
        for d, bad in zip(decisions, reference, strict=True)
    ]
    study = gauge_study(parts_from(decisions, reference, scores), threshold=1.0)

    rates = [r.value for r in (study.effectiveness, study.miss_rate, study.false_alarm_rate)]
    assert_allclose(rates, naive_rates(decisions, reference), rtol=1e-9)

    value, error = naive_cohen(decisions, reference)
    assert_allclose(study.kappa_reference.value, value, rtol=1e-9)
    z = stats.norm.ppf(0.975)
    assert_allclose(study.kappa_reference.upper, min(1, value + z * error), rtol=1e-9)
    assert_allclose(study.kappa_reference.lower, value - z * error, rtol=1e-9)

    value, error = naive_fleiss(decisions)
    t = stats.t.ppf(0.975, sum(len(d) > 1 for d in decisions) - 1)
    assert_allclose(study.kappa_repeats.value, value, rtol=1e-9)
    assert_allclose(study.kappa_repeats.lower, value - t * error, rtol=1e-9)

    within, between = naive_anova(scores)
    assert_allclose(study.scores.within_sd, within, rtol=1e-9)
    assert_allclose(study.scores.between_sd, between, rtol=1e-9)
    assert_allclose(study.scores.ratio, within / between, rtol=1e-9)
    for i, s in enumerate(scores):
        assert_allclose(study.scores.margins[f"part {i}"], (sum(s) / len(s) - 1) / within, rtol=1e-9)
    close = [name for name, margin in study.scores.margins.items() if -3 < margin < 3]
    assert list(study.scores.in_doubt) == close and close
    parts = parts_from(decisions, reference, scores)
    parts[0] = replace(parts[0], threshold=2.0)
    own = gauge_study(parts, threshold=1.0).scores.margins
    assert_allclose(own["part 0"], (sum(scores[0]) / len(scores[0]) - 2) / within, rtol=1e-9)
    assert own["part 1"] == study.scores.margins["part 1"]


LOOKS = ["010", "111", "110", "101", "110", "100", "111", "011", "111", "011"]
LOOKS += ["000"] * 7 + ["100"] + ["000"] * 5 + ["001"]
DECISIONS = [[int(d) for d in looks] for looks in LOOKS]
REFERENCE = [i < 10 for i in range(24)]


def test_agrees_with_irrcac_and_statsmodels():
    # irrCAC 0.4.4, CAC(DECISIONS).fleiss(): coefficient, se and t interval; then with the third look at parts
    # 1, 5 and 12 missing. statsmodels 0.15.0, cohens_kappa of the first looks: kappa, kappa_low, kappa_upp.
    kappa = gauge_study(parts_from(DECISIONS, REFERENCE)).kappa_repeats
    assert_allclose(
        (kappa.value, kappa.lower, kappa.upper), (0.425022182786, 0.134176649348, 0.715867716224), rtol=1e-9
    )
    ragged = [looks[:2] if i in (1, 5, 12) else looks for i, looks in enumerate(DECISIONS)]
    kappa = gauge_study(parts_from(ragged)).kappa_repeats
    assert_allclose(
        (kappa.value, kappa.lower, kappa.upper), (0.399868392191, 0.093117608375, 0.706619176008), rtol=1e-9
    )
    kappa = gauge_study(parts_from([looks[:1] for looks in DECISIONS], REFERENCE)).kappa_reference
    assert_allclose(
        (kappa.value, kappa.lower, kappa.upper),
        (0.6470588235294118, 0.33727449568521667, 0.9568431513736069),
        rtol=1e-9,
    )


def test_intervals_of_scores_are_those_of_the_balanced_one_way_model():
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 1, (12, 1)) + rng.normal(0, 0.4, (12, 4))
    got = gauge_study(parts_from([[1] * 4] * 12, None, scores.tolist()), confidence=0.9).scores
    within = scores.var(axis=1, ddof=1).mean()
    low, high = stats.chi2.ppf([0.05, 0.95], 36)
    assert_allclose(got.within_interval, np.sqrt([36 * within / high, 36 * within / low]), rtol=1e-9)
    f = stats.f_oneway(*scores).statistic
    theta = (f / stats.f.ppf([0.05, 0.95], 11, 36) - 1) / 4
    assert_allclose(got.ratio_interval, 1 / np.sqrt(theta), rtol=1e-9)


def test_interval_of_repeatability_covers():
    rng, hits, ratio_hits = np.random.default_rng(0), 0, 0
    for _ in range(300):
        scores = rng.normal(0, 1, (10, 1)) + rng.normal(0, 0.5, (10, 3))
        got = gauge_study(parts_from([[1] * 3] * 10, None, scores.tolist())).scores
        low, high = got.within_interval
        hits += low <= 0.5 <= high
        low, high = got.ratio_interval
        ratio_hits += (low is not None and low <= 0.5) and (high is None or high >= 0.5)
    assert 0.91 <= hits / 300 <= 0.985
    assert 0.91 <= ratio_hits / 300 <= 0.985


def test_interval_of_kappa_covers():
    """Truth from one very large study."""
    truth = gauge_study(parts_from(*simulated(99, n=5000)))
    inside = {"kappa_reference": 0, "kappa_repeats": 0}
    for seed in range(200):
        study = gauge_study(parts_from(*simulated(seed, n=60)))
        for name in inside:
            got = getattr(study, name)
            inside[name] += got.lower <= getattr(truth, name).value <= got.upper
    assert all(0.90 <= count / 200 <= 0.99 for count in inside.values())


def test_skewed_marginals_are_flagged():
    # 100 parts, 2 of them defective: 97 % of decisions agree, yet kappa is poor.
    decisions = [[1], [0]] + [[1]] * 2 + [[0]] * 96
    study = gauge_study(parts_from(decisions, [True] * 2 + [False] * 98))
    assert study.kappa_reference.agreement == 0.97
    assert study.kappa_reference.verdict == "poor"
    assert study.kappa_reference.skewed
    assert any("deflates kappa" in words for words in study.warnings)
    balanced = gauge_study(parts_from(*simulated(0)))
    assert not balanced.kappa_reference.skewed
    assert not any("deflates" in words for words in balanced.warnings)


def test_knapp_compares_with_people_in_their_reject_zone():
    automated = [[1] * 10, [1] * 9 + [0], [1] * 6 + [0] * 4, [0] * 10]
    manual = [(30, 30), (21, 30), (20, 30), (9, 30)]
    knapp = gauge_study(parts_from(automated, [True, True, True, False], manual=manual)).knapp
    assert knapp.reject_zone == ("part 0", "part 1")
    assert knapp.grey_zone == ("part 2",)
    assert knapp.accept_zone == ("part 3",)
    assert_allclose((knapp.automated_efficiency, knapp.manual_efficiency), (0.95, 0.85), rtol=1e-12)
    t = stats.ttest_rel([1.0, 0.9], [1.0, 0.7]).confidence_interval(0.95)
    assert_allclose(knapp.difference_interval, (t.low, t.high), rtol=1e-9)
    assert knapp.passed is True
    assert (knapp.defective_in_reject_zone.count, knapp.defective_in_reject_zone.total) == (2, 3)

    worse = gauge_study(parts_from([[1] * 8 + [0] * 2], manual=[(25, 30)])).knapp
    assert worse.passed is False and worse.difference_interval is None
    equal = gauge_study(parts_from([[1] * 7 + [0] * 3] * 3, manual=[(21, 30)] * 3)).knapp
    assert equal.passed is True


def test_knapp_without_people_uses_the_systems_own_rates():
    decisions = [[1] * 7 + [0] * 3, [1] * 5 + [0] * 5, [1] * 3 + [0] * 7]
    knapp = gauge_study(parts_from(decisions)).knapp
    assert (knapp.reject_zone, knapp.grey_zone, knapp.accept_zone) == (("part 0",), ("part 1",), ("part 2",))
    assert knapp.passed is None and knapp.manual_efficiency is None and not knapp.manual


MIXED = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("decisions", "reference", "scores", "missing", "words"),
    [
        (
            [[1], [0], [1]],
            None,
            [[1.0], [0.0], [2.0]],
            ("alike", "kappa_repeats", "scores"),
            "have one photo",
        ),
        ([[1], [0, 1], [1, 1]], None, None, (), "1 of 3 parts have one photo"),
        ([[1, 0, 1]], [True], [[1.0, 0.5, 0.9]], ("false_alarm_rate", "kappa_reference"), "add good parts"),
        (MIXED, [False] * 4, None, ("miss_rate", "kappa_reference"), "add defective parts"),
        (MIXED, None, None, ("effectiveness", "miss_rate", "kappa_reference"), "let experts agree"),
        (MIXED, [True, None, False, None], None, (), "2 parts have no reference"),
        ([[1, 1]] * 3, [True, False, True], None, ("kappa_repeats",), "Every photo was rejected"),
        ([[0, 0]] * 3, [True, False, True], None, ("kappa_repeats",), "Every photo was passed"),
        (MIXED, None, [[0.1] * 3, [0.7] * 3, [0.3] * 3, [0.2] * 3], (), "Copies of one photo"),
        (MIXED, None, [[0.1] * 3] * 4, (), "tell no parts apart"),
        ([[1, 1]] * 3 + [[0, 0]] * 3, [True] * 3 + [False] * 3, None, (), "nothing disagrees"),
        (
            [[1] * 3] * 4 + [[0] * 3] * 4,
            [True] * 4 + [False] * 4,
            None,
            (),
            "takes 183 parts without an error",
        ),
    ],
)
def test_thin_studies_are_answered_in_words(decisions, reference, scores, missing, words):
    study = gauge_study(parts_from(decisions, reference, scores), threshold=0.5)
    assert any(words in sentence for sentence in study.warnings), study.warnings
    for name in missing:
        assert getattr(study, name) is None


def test_one_part_has_repeatability_but_no_spread():
    scores = gauge_study(parts_from([[1, 0, 1]], None, [[1.0, 0.5, 0.9]]), threshold=0.75).scores
    assert_allclose(scores.within_sd, np.std([1.0, 0.5, 0.9], ddof=1))
    assert scores.between_sd is None and scores.ratio is None and scores.ratio_interval == (None, None)
    assert scores.in_doubt == ("part 0",)


def test_constant_scores_give_zero_and_no_margin():
    scores = gauge_study(parts_from(MIXED, None, [[0.1] * 3] * 4), threshold=0.5).scores
    assert (scores.within_sd, scores.between_sd, scores.ratio, scores.margins) == (0, 0, None, None)


def test_people_who_reject_nothing_leave_no_zone():
    study = gauge_study(parts_from(MIXED, manual=[(0, 10)] * 4))
    assert study.knapp.passed is None
    assert any("no reject zone" in words for words in study.warnings)
    assert any("10 by each of 3 inspectors" in words for words in study.warnings)


@pytest.mark.parametrize(
    ("parts", "options", "error", "words"),
    [
        ([], {}, DataError, "about 50 parts 3 times"),
        ([Part("a", [])], {}, DataError, "no decisions"),
        ([Part("a", [True]), Part("a", [True])], {}, DataError, "listed 2 times"),
        ([Part("a", [True, True], [0.1])], {}, DataError, "1 scores for 2 decisions"),
        ([Part("a", [True], [0.1]), Part("b", [True])], {}, DataError, "every part, or none"),
        ([Part("a", [True], [math.nan])], {}, DataError, "not a number"),
        ([Part("a", [True], manual=(3, 2))], {}, DataError, "rejections"),
        ([Part("a", [True], manual=(0, 0))], {}, DataError, "at least one look"),
        ([Part("a", [True])], {"confidence": 95}, ConfigError, "0.95"),
    ],
)
def test_refusals_name_the_cure(parts, options, error, words):
    with pytest.raises(error, match=words):
        gauge_study(parts, **options)
