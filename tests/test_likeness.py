"""Photos that are not like those that a threshold rests on are told, by chances held against simulation."""

import numpy as np
import pytest
from scipy.stats import betabinom

from anomaly.quality.likeness import FEWEST, SURE, exceedance_p_value, likeness


@pytest.mark.parametrize(("n", "above"), [(1, 1), (20, 0), (20, 3), (90, 36), (100_000, 20_000)])
@pytest.mark.parametrize("rank", [1, 4, 19])
def test_exceedances_are_beta_binomial(n, above, rank):
    known = np.arange(19.0)
    expected = betabinom.sf(above - 1, n, rank, 20 - rank)
    found = exceedance_p_value(known, known[19 - rank], n, above)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_a_cut_below_all_known_scores_says_nothing():
    assert exceedance_p_value([1.0, 2.0], 0.5, 10, 10) == 1.0


@pytest.mark.parametrize("rank", [2, 8])
def test_the_chance_of_exceedances_is_kept(rank):
    """P(p <= t) is at most t, and near it, where new photos are draws of the same kind."""
    rng = np.random.default_rng(rank)
    p_values = []
    for _ in range(2000):
        known, new = rng.normal(size=40), rng.normal(size=60)
        cut = np.sort(known)[-rank]
        p_values.append(exceedance_p_value(known, cut, new.size, int((new > cut).sum())))
    for level in (0.05, 0.2):
        share = np.mean(np.array(p_values) <= level)
        assert share <= level + 3 * np.sqrt(level * (1 - level) / 2000)
        assert share >= level / 3


def test_photos_of_the_same_kind_are_seldom_called_unlike():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(1000):
        known, new = rng.normal(size=30), rng.normal(size=200)
        found = likeness(known, new, float(np.sort(known)[-2]))
        called += found is not None and found.sentence is not None
    assert called <= 1000 * SURE + 4  # three standard errors above one


@pytest.mark.parametrize(("shift", "word"), [(1.5, "light"), (-3.0, "blur")])
def test_a_shift_is_told_in_words(shift, word):
    rng = np.random.default_rng(1)
    known = rng.normal(size=60)
    found = likeness(known, rng.normal(size=300) + shift, float(np.sort(known)[-3]))
    assert found is not None and found.p_value < SURE
    assert word in found.sentence and f"{found.above} of the {found.photos} photos" in found.sentence


def test_defects_among_good_photos_are_no_shift():
    rng = np.random.default_rng(2)
    known = rng.normal(size=60)
    photos = np.concatenate([rng.normal(size=300), rng.normal(size=100) + 8])
    found = likeness(known, photos, float(np.sort(known)[-3]))
    assert found is not None and found.sentence is None
    assert found.photos < 310


def test_a_handful_of_photos_is_not_compared():
    known = np.arange(30.0)
    assert likeness(known, np.full(FEWEST - 1, 20.0), 25.0) is None
    assert likeness(known[:FEWEST], np.full(50, 3.0), 5.0) is None
    assert likeness(known, np.full(50, 99.0), 25.0) is None


def test_ties_at_the_middle_count_for_neither_side():
    found = likeness(np.zeros(40), np.zeros(200), 1.0)
    assert found is not None and found.above == 0 and found.p_value == 1.0 and found.sentence is None


def test_scores_of_minus_infinity_are_low_scores():
    known = np.concatenate([np.full(30, -np.inf), np.arange(30.0)])
    assert exceedance_p_value(known, 28.0, 20, 20) < SURE
    found = likeness(known, np.full(50, 20.0), 28.0)
    assert found is not None and found.above == 50 and found.p_value < SURE
