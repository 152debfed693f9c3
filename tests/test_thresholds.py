"""Thresholds and their promises: order statistics, brute force over all cuts, and Monte Carlo."""

import math
from fractions import Fraction

import numpy as np
import pytest

from anomaly.errors import CalibrationError, ConfigError, DataError
from anomaly.quality.intervals import allowed_failures, clopper_pearson
from anomaly.quality.thresholds import (
    Costs,
    Rule,
    choose,
    cross_fitted,
    operating_point,
)


def labelled(seed, n=60, shift=1.0, ties=True):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    scores = rng.normal(labels * shift, 1)
    return (np.round(scores * 2) / 2 if ties else scores), labels


def counts(scores, labels, threshold, review=None):
    """(overkills, escapes, normal reviews), written out."""
    low = threshold if review is None else review
    good, bad = scores[~labels], scores[labels]
    return (good > threshold).sum(), (bad <= low).sum(), ((low < good) & (good <= threshold)).sum()


@pytest.mark.parametrize("seed", range(5))
def test_operating_point_counts_what_it_says(seed):
    scores, labels = labelled(seed)
    for review in (None, -0.5):
        point = operating_point(
            0.5, scores, labels, review_threshold=review, confidence=0.9, costs=Costs(200, 1, 0.002)
        )
        overkills, escapes, reviews = counts(scores, labels, 0.5, review)
        assert (point.overkills, point.escapes, point.normal_reviews) == (overkills, escapes, reviews)
        assert (point.n_normal, point.n_anomalous) == (40, 20)
        assert (point.overkill_rate, point.escape_rate) == (overkills / 40, escapes / 20)
        assert point.overkill_interval == clopper_pearson(overkills, 40, 0.9)
        assert point.escape_interval == clopper_pearson(escapes, 20, 0.9)
        assert point.cost_per_1000 == pytest.approx(2 * 200 * escapes / 20 + 998 * overkills / 40)
        assert not point.optimistic


def test_a_score_on_the_threshold_is_normal():
    point = operating_point(2.0, [1, 2, 2, 3], [0, 0, 1, 1])
    assert (point.overkills, point.escapes) == (0, 1)


def test_operating_point_without_one_label_says_that_nothing_is_known():
    point = operating_point(0.0, [1.0, -1.0], [0, 0], costs=Costs(2, 1, 0.1))
    assert (point.escape_rate, point.escape_interval, point.cost_per_1000) == (None, (0.0, 1.0), None)
    assert point.to_dict()["overkills"] == 1


def test_thresholds_that_are_none_are_refused():
    for threshold, review in ((math.nan, None), (math.inf, None), (1.0, 2.0), (1.0, math.nan)):
        with pytest.raises(ConfigError, match="thresholds must be finite, review_threshold the lower"):
            operating_point(threshold, [1.0, 2.0], [0, 1], review_threshold=review)


RULES = [
    Rule(max_overkill=0.1, confidence=None),
    Rule(max_overkill=0.1, confidence=0.8),
    Rule(max_escape=0.2, confidence=None),
    Rule(max_escape=0.3, confidence=0.8),
    Rule(zero_escapes=True),
    Rule(costs=Costs(20, 1, 0.1)),
    Rule(costs=Costs(1, 30, 0.1)),
    Rule(max_overkill=0.6, max_escape=0.4, confidence=0.7),
    Rule(max_overkill=0.5, max_escape=0.4, costs=Costs(5, 1, 0.2), confidence=None),
    Rule(max_overkill=0.1, review_share=0.2, confidence=0.8),
    Rule(max_escape=0.2, review_share=0.2, confidence=None),
    Rule(zero_escapes=True, review_share=0.1),
    Rule(max_overkill=0.3, zero_escapes=True, review_share=0.35, confidence=None),
    Rule(costs=Costs(50, 1, 0.1), review_share=0.15),
]


def brute_force(scores, labels, rule):
    """All (threshold, review) that keep the rule's limits, lowest threshold first, widest band only."""
    n_good, n_bad = (~labels).sum(), labels.sum()

    def most(rate, n):
        if rate is None:
            return n
        return (
            math.floor(Fraction(str(rate)) * int(n))
            if rule.confidence is None
            else allowed_failures(int(n), rate, rule.confidence)
        )

    cuts = [scores.min() - 1, *np.unique(scores)]
    most_overkills = most(rule.max_overkill, n_good)
    most_escapes = 0 if rule.zero_escapes else most(rule.max_escape, n_bad)
    kept = []
    for threshold in cuts:
        reviews = [None]
        if rule.review_share is not None:
            reviews = [
                low
                for low in cuts
                if low <= threshold
                and counts(scores, labels, threshold, low)[2] <= rule.review_share * n_good
            ][:1]
        overkills, escapes, _ = counts(scores, labels, threshold, reviews[0])
        if overkills <= most_overkills and escapes <= most_escapes:
            kept.append((overkills, escapes))
    return kept


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ties", [False, True])
def test_choose_agrees_with_brute_force(rule, ties):
    answered = 0
    for seed in range(6):
        scores, labels = labelled(seed, n=45, shift=2.0, ties=ties)
        kept = brute_force(scores, labels, rule)
        if not kept:
            with pytest.raises(CalibrationError):
                choose(scores, labels, rule)
            continue
        answered += 1
        point = choose(scores, labels, rule)
        assert point.optimistic
        found = counts(scores, labels, point.threshold, point.review_threshold)
        assert found == (point.overkills, point.escapes, point.normal_reviews)
        if rule.costs:
            expected = min(rule.costs.per_1000(e / 15, o / 30) for o, e in kept)
            assert point.cost_per_1000 == pytest.approx(expected)
        else:
            assert found[:2] == (kept[0] if rule.max_overkill else kept[-1])
    assert answered


def test_chosen_threshold_keeps_away_from_the_scores():
    """Scoring again on another machine moves scores by 1e-6; decisions should stay."""
    scores, labels = np.array([0.0, 1.0, 2.0, 6.0, 7.0]), np.array([0, 0, 0, 1, 1])
    assert choose(scores, labels, Rule(zero_escapes=True)).threshold == 4.0
    neighbours = np.array([1.0, np.nextafter(1.0, 2.0)])
    for adjacent in (neighbours, np.nextafter(neighbours, 2.0)):  # no number lies between them
        point = choose(adjacent, [0, 1], Rule(zero_escapes=True))
        assert (point.overkills, point.escapes) == (0, 0)


def test_max_escape_keeps_its_promise():
    """Uniform scores of defects: the escape rate of a threshold t is t."""
    rng = np.random.default_rng(4)
    rule = Rule(max_escape=0.05)
    broken = sum(choose(rng.random(100), np.ones(100), rule).threshold > 0.05 for _ in range(1000))
    assert broken / 1000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    assert broken > 0


def test_max_overkill_keeps_its_promise_whatever_the_defects():
    rng = np.random.default_rng(5)
    rule, labels = Rule(max_overkill=0.05), np.arange(130) >= 100
    broken = 0
    for _ in range(1000):
        point = choose(np.concatenate([rng.random(100), 0.5 + rng.random(30)]), labels, rule)
        broken += 1 - point.threshold > 0.05
    assert broken / 1000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_cross_fitted_figures_are_those_of_photos_that_did_not_choose():
    """As many folds as groups: the folds are known, and the counts can be written out."""
    scores, labels = labelled(6)
    groups = [f"lot {i // 7}" for i in range(60)]
    for rule in (
        Rule(zero_escapes=True),
        Rule(costs=Costs(20, 1, 0.1)),
        Rule(costs=Costs(2, 1, 0.3), review_share=0.1),
    ):
        overkills = escapes = 0
        for lot in sorted(set(groups)):
            inside = np.array(groups) == lot
            chosen = choose(scores[~inside], labels[~inside], rule)
            found = counts(scores[inside], labels[inside], chosen.threshold, chosen.review_threshold)
            overkills, escapes = overkills + found[0], escapes + found[1]
        point = cross_fitted(scores, labels, groups, rule, folds=99)
        assert (point.overkills, point.escapes) == (overkills, escapes)
        assert (point.threshold, point.optimistic) == (choose(scores, labels, rule).threshold, False)


def test_cross_fitting_shows_what_choosing_hides():
    """Scores without any information: no observed escape is an illusion of the chosen threshold."""
    rng = np.random.default_rng(7)
    labels = np.arange(200) % 2 == 0
    honest = 0
    for seed in range(50):
        scores = rng.random(200)
        assert choose(scores, labels, Rule(zero_escapes=True)).escapes == 0
        honest += cross_fitted(scores, labels, None, Rule(zero_escapes=True), seed=seed).escapes
    assert 0.5 * 50 < honest < 2 * 50  # of 100 defects the lowest of a fold's 20 beats the other 80: 1 in all


def test_cross_fitting_is_repeatable_and_keeps_groups_together():
    scores, labels = labelled(8, n=90, ties=False)
    rule = Rule(costs=Costs(3, 1, 0.3))
    assert cross_fitted(scores, labels, None, rule, seed=3) == cross_fitted(
        scores, labels, None, rule, seed=3
    )
    twice, of = np.tile(scores, 2), np.tile(labels, 2)
    together = cross_fitted(twice, of, [str(i % 90) for i in range(180)], rule, folds=90)
    apart = cross_fitted(scores, labels, None, rule, folds=90)
    assert (together.overkills, together.escapes) == (2 * apart.overkills, 2 * apart.escapes)


def test_cross_fitting_with_few_groups_answers_or_names_the_cure():
    scores, labels = labelled(9)
    with pytest.raises(
        CalibrationError, match="needs photos of 2 groups or more, got 1: add photos of another"
    ):
        cross_fitted(scores, labels, ["a"] * 60, Rule(zero_escapes=True))
    one_bad_group = ["bad" if bad else f"lot {i}" for i, bad in enumerate(labels)]
    with pytest.raises(CalibrationError, match=r"photos labelled anomalous, got none.*add groups of photos"):
        cross_fitted(scores, labels, one_bad_group, Rule(zero_escapes=True))
    assert cross_fitted(scores, labels, one_bad_group, Rule(max_overkill=0.2)).n_anomalous == 20
    with pytest.raises(
        CalibrationError, match=r"the 320 of 400 photos left do not suffice .*needs at least 299"
    ):
        half = np.arange(400) < 300
        cross_fitted(np.arange(400.0), ~half, None, Rule(max_overkill=0.01))
    assert cross_fitted(np.arange(400.0), ~half, None, Rule(max_overkill=0.012), folds=30).overkills <= 2
    with pytest.raises(ConfigError, match="2 folds or more, got 1"):
        cross_fitted(scores, labels, None, Rule(zero_escapes=True), folds=1)
    with pytest.raises(DataError, match="60 photos but 2 groups"):
        cross_fitted(scores, labels, ["a", "b"], Rule(zero_escapes=True))


def test_each_label_is_left_in_every_fold_where_groups_allow_it():
    """Two groups hold the defects, two the normal photos, one of them both: each fold can be judged."""
    labels = np.array([1, 1, 0, 1, 1, 0])
    groups = ["a", "a", "b", "b", "c", "d"]
    for seed in range(20):
        point = cross_fitted([3.0, 4, 1, 3, 5, 0], labels, groups, Rule(costs=Costs(1, 1, 0.5)), 2, seed)
        assert (point.n_normal, point.n_anomalous) == (2, 4)


def test_wishes_that_the_photos_cannot_support_are_told_so():
    scores, labels = labelled(10, n=90)
    with pytest.raises(CalibrationError) as error:
        choose(scores, labels, Rule(max_overkill=0.01))
    assert str(error.value) == (
        "max_overkill 0.01 with 95 % confidence needs at least 299 normal photos, got 60: "
        "add photos, or set max_overkill to 0.049 or more"
    )
    with pytest.raises(
        CalibrationError, match=r"needs at least 598 anomalous photos, got 30: .* to 0.096 or more"
    ):
        choose(scores, labels, Rule(max_escape=0.005))
    for rule in (Rule(zero_escapes=True), Rule(max_escape=0.5), Rule(costs=Costs(1, 1, 0.5))):
        with pytest.raises(CalibrationError, match="photos labelled anomalous, got none: add some"):
            choose(scores[~labels], labels[~labels], rule)
    for rule in (Rule(max_overkill=0.1), Rule(zero_escapes=True, review_share=0.1)):
        with pytest.raises(CalibrationError, match="photos labelled normal, got none: add some"):
            choose(scores[labels], labels[labels], rule)
    with pytest.raises(CalibrationError, match="got none"):
        choose([], [], Rule(max_overkill=0.1))


def test_contradicting_limits_say_what_each_would_cost():
    scores, labels = np.array([1.0, 2, 3, 4, 5, 6]), np.array([0, 1, 0, 1, 0, 1])
    with pytest.raises(CalibrationError) as error:
        choose(scores, labels, Rule(max_overkill=0.3, zero_escapes=True, confidence=None))
    assert str(error.value) == (
        "no threshold keeps both limits: at most 0 of 3 normal photos above it lets 2 of 3 anomalous ones "
        "escape, at most 0 escapes reject 2 normal ones: relax one limit, or give review_share"
    )
    with pytest.raises(CalibrationError, match="or widen review_share"):
        choose(scores, labels, Rule(max_overkill=0.3, zero_escapes=True, review_share=0.4, confidence=None))
    point = choose(
        scores, labels, Rule(max_overkill=0.3, zero_escapes=True, review_share=0.7, confidence=None)
    )
    assert (point.overkills, point.escapes, point.normal_reviews, point.anomalous_reviews) == (0, 0, 2, 2)


def test_three_photos_and_constant_scores_get_an_answer():
    for rule in (
        Rule(zero_escapes=True),
        Rule(costs=Costs(9, 1, 0.5)),
        Rule(max_overkill=0.7, confidence=None),
    ):
        constant = choose([5.0] * 3, [0, 0, 1], rule)
        assert (constant.overkills, constant.escapes) in {(2, 0), (0, 1)}
    point = choose([1.0, 2.0, 3.0], [0, 0, 1], Rule(zero_escapes=True))
    assert (point.threshold, point.escape_interval[1]) == (2.5, pytest.approx(0.975))


def test_costs_and_rules_that_make_no_sense_are_refused():
    for escape, overkill in ((0, 1), (1, -1), (math.inf, 1), (1, math.nan)):
        with pytest.raises(ConfigError, match="must be above 0 and finite"):
            Costs(escape, overkill, 0.01)
    for rate in (0, 1, 2, -0.1, math.nan):
        with pytest.raises(
            ConfigError, match=r"defect_rate must lie between 0 and 1, both excluded \(1 % is"
        ):
            Costs(1, 1, rate)
    for wishes in ({}, {"review_share": 0.1}):
        with pytest.raises(ConfigError, match="give max_overkill, max_escape, zero_escapes or costs"):
            Rule(**wishes)
    for name in ("max_overkill", "max_escape", "review_share", "confidence"):
        with pytest.raises(ConfigError, match=f"{name} must lie between"):
            Rule(**{"zero_escapes": True, name: 1})
