"""Metrics against scikit-learn, naive loops and Monte Carlo."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomaly import metrics
from anomaly.errors import ConfigError, DataError


def labelled(seed, n=60, ties=False):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    scores = rng.normal(labels * 1.0, 1)
    return (scores.round() if ties else scores), labels


def maps_and_masks(seed, n=6, values=8):
    """Maps of differing sizes with ties, good photos among them, touching and separate regions."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(n):
        shape = rng.integers(5, 14, 2)
        mask = (rng.random(shape) < 0.15) if i % 2 else np.zeros(shape, bool)
        maps.append((rng.integers(0, values, shape) + 2 * mask).astype(np.float32))
        masks.append(mask)
    return maps, masks


def naive_aupro(maps, masks, limit):
    normal = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    regions = []
    for m, k in zip(maps, masks, strict=True):
        numbered, count = ndimage.label(k, structure=np.ones((3, 3)))
        regions += [m[numbered == r] for r in range(1, count + 1)]
    curve = [(0.0, 0.0)]
    for threshold in [*np.unique(np.concatenate([m.ravel() for m in maps]))[::-1], -np.inf]:
        curve.append(((normal > threshold).mean(), np.mean([(r > threshold).mean() for r in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


@pytest.mark.parametrize("ties", [False, True])
def test_image_metrics_agree_with_scikit_learn(ties):
    scores, labels = labelled(1, ties=ties)
    assert metrics.image_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.image_ap(scores, labels) == pytest.approx(average_precision_score(labels, scores))
    best = max(f1_score(labels, scores >= t) for t in scores)
    assert metrics.image_f1_max(scores, labels) == pytest.approx(best, abs=1e-12)


def test_metrics_need_both_labels():
    for labels in ([0, 0, 0], [1, 1, 1]):
        for metric in (metrics.image_auroc, metrics.image_ap, metrics.image_f1_max, metrics.auroc_interval):
            assert metric([1.0, 2.0, 3.0], labels) is None
    assert metrics.image_auroc([], []) is None


def test_bad_scores_and_labels_are_named():
    with pytest.raises(DataError, match=r"1 of 3 scores are NaN or infinite, the first at position 1"):
        metrics.image_auroc([1, np.nan, 2], [0, 1, 0])
    with pytest.raises(DataError, match="infinite"):
        metrics.image_ap([1, np.inf, 2], [0, 1, 0])
    with pytest.raises(DataError, match="must be numbers"):
        metrics.image_auroc([1, None, "x"], [0, 1, 0])
    with pytest.raises(DataError, match="one number per photo"):
        metrics.image_auroc([[1, 2, 3]], [0, 1, 0])
    with pytest.raises(DataError, match="3 photos need 3 labels"):
        metrics.image_auroc([1, 2, 3], [0, 1])
    for labels in ([0, 1, 2], ["good", "bad", "bad"], [0, 1, None], [0, 1, np.nan]):
        with pytest.raises(DataError, match="1 \\(anomalous\\) or 0 \\(normal\\)"):
            metrics.image_f1_max([1, 2, 3], labels)


def test_placements_are_shares_of_ordered_pairs():
    scores, labels = labelled(2, ties=True)
    bad, good = scores[labels], scores[~labels]
    pairs = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
    by_bad, by_good = metrics.placements(scores, labels)
    np.testing.assert_allclose(by_bad, pairs.mean(1), atol=1e-12)
    np.testing.assert_allclose(by_good, pairs.mean(0), atol=1e-12)


def test_auroc_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(3)
    labels = np.arange(120) < 40
    truth = 0.8556  # Phi(1.5 / sqrt(2))
    covered = 0
    for _ in range(1000):
        low, high = metrics.auroc_interval(rng.normal(labels * 1.5, 1), labels)
        covered += low <= truth <= high
    assert 0.93 <= covered / 1000 <= 0.97


def test_auroc_interval_matches_delong_variance_written_out():
    scores, labels = labelled(4)
    bad, good = scores[labels], scores[~labels]
    pairs = bad[:, None] > good
    auroc = pairs.mean()
    variance = np.var(pairs.mean(1), ddof=1) / bad.size + np.var(pairs.mean(0), ddof=1) / good.size
    low, high = metrics.auroc_interval(scores, labels, 0.9)
    assert np.log(high / (1 - high)) + np.log(low / (1 - low)) == pytest.approx(
        2 * np.log(auroc / (1 - auroc)), abs=1e-9
    )
    half = (np.log(high / (1 - high)) - np.log(low / (1 - low))) / 2
    assert half == pytest.approx(1.6448536 * np.sqrt(variance) / (auroc * (1 - auroc)), rel=1e-6)


def test_auroc_interval_without_variance_is_that_of_independent_pairs():
    labels = np.arange(30) < 10
    low, high = metrics.auroc_interval(labels * 1.0, labels)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    low, high = metrics.auroc_interval(1.0 - labels, labels)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    low, high = metrics.auroc_interval(np.ones(30), labels)
    assert low < 0.25 and high > 0.75
    low, high = metrics.auroc_interval([1.0, 3.0, 2.0], [0, 0, 1])
    assert low == 0.0 and high == 1.0
    with pytest.raises(ConfigError, match="confidence"):
        metrics.auroc_interval([1.0, 2.0], [0, 1], 95)


@pytest.mark.parametrize("seed", range(4))
def test_pixel_auroc_agrees_with_scikit_learn(seed):
    maps, masks = maps_and_masks(seed)
    flat = [np.concatenate([a.ravel() for a in arrays]) for arrays in (masks, maps)]
    assert metrics.pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(*flat), abs=1e-12)


@pytest.mark.parametrize("values", [3, 8, 10**6])
@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3, 1])
def test_aupro_agrees_with_a_naive_loop(limit, values):
    for seed in range(3):
        maps, masks = maps_and_masks(seed, values=values)
        assert metrics.aupro(maps, masks, limit) == pytest.approx(naive_aupro(maps, masks, limit), abs=1e-12)


def test_maps_larger_than_a_block_give_the_same_figures(monkeypatch):
    maps, masks = maps_and_masks(5, n=20)
    whole = metrics.aupro(maps, masks), metrics.pixel_auroc(maps, masks)
    monkeypatch.setattr(metrics, "BLOCK", 150)
    blocks = metrics.aupro(maps, masks), metrics.pixel_auroc(maps, masks)
    assert blocks == pytest.approx(whole, abs=1e-12)


def test_aupro_regions_weigh_alike_and_touch_at_corners():
    """A large region found and a small one missed: one half. Joined at a corner: they are one region."""
    mask = np.zeros((20, 20), bool)
    mask[:8, :8] = mask[15:17, 15:17] = True
    found = np.zeros((20, 20), np.float32)
    found[:8, :8] = 1
    normal_ties = 0.3 / 2  # the missed region ties with all normal pixels: a straight line up to FPR 1
    assert metrics.aupro([found], [mask]) == pytest.approx(0.5 + 0.5 * normal_ties)
    mask[15:17, 15:17], mask[8:10, 8:10] = False, True
    share = 64 / 68
    assert metrics.aupro([found], [mask]) == pytest.approx(share + (1 - share) * normal_ties)


def test_good_photos_count_among_the_false_positives():
    maps, masks = maps_and_masks(6)
    loud = np.full((9, 9), 100, np.float32)
    assert metrics.aupro([*maps, loud], [*masks, np.zeros((9, 9), bool)]) < metrics.aupro(maps, masks)


def test_map_metrics_need_normal_and_anomalous_pixels():
    for metric in (metrics.pixel_auroc, metrics.aupro):
        assert metric([np.ones((4, 5))], [np.zeros((4, 5), bool)]) is None
        assert metric([np.ones((4, 5))], [np.ones((4, 5), bool)]) is None
        assert metric([], []) is None


def test_bad_maps_are_named():
    ones = np.ones((4, 5), np.float32)
    with pytest.raises(DataError, match=r"map 1 is \(4, 5\), its mask \(5, 4\)"):
        metrics.aupro([ones, ones], [ones > 0, (ones > 0).T])
    with pytest.raises(DataError, match="2 anomaly maps but 1 masks"):
        metrics.pixel_auroc([ones, ones], [ones > 0])
    with pytest.raises(DataError, match="map 0 holds NaN"):
        metrics.pixel_auroc([ones * np.nan], [ones > 0])
    for limit in (0, -0.1, 1.5):
        with pytest.raises(ConfigError, match="limit must lie between 0 and 1"):
            metrics.aupro([ones], [ones > 0], limit)
