"""Encoder health and PCA subspaces against closed forms, brute force and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from anomaly.diagnostics import encoder_health as health
from anomaly.diagnostics.subspace import (
    GaussianNoise,
    PatchMasking,
    bottom_subspace,
    read_alignment_curve,
    read_score_share,
    reconstruction_alignment,
    score_share,
    square_patches,
    top_subspace,
)
from anomaly.errors import ConfigError, DataError

RNG = np.random.default_rng(5)


def mixed(n: int = 400, d: int = 9) -> np.ndarray:
    """(n, d) with variances that fall by half from one hidden direction to the next."""
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0]
    scale = 2.0 ** -np.arange(d)
    return np.random.default_rng(2).standard_normal((n, d)) * np.sqrt(scale) @ rotation.T + 3


# Encoder health


def test_alignment_and_uniformity_of_random_embeddings_are_those_of_the_sphere() -> None:
    a, b = RNG.standard_normal((2, 2000, 200))
    assert health.alignment(a, b) == pytest.approx(2, abs=0.02)
    assert health.uniformity(a) == pytest.approx(-4, abs=0.05)


def test_effective_rank_of_equal_directions_is_their_number() -> None:
    cross = np.concatenate([np.eye(6), -np.eye(6)])
    assert health.effective_rank(cross) == pytest.approx(6)
    assert health.effective_rank(cross[:, :1] + 10) == pytest.approx(1)


def test_effective_rank_is_the_exponential_of_the_entropy() -> None:
    x = np.diag([3.0, 1.0])
    x = np.concatenate([x, -x])  # centred, singular values in the ratio 3 : 1
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert health.effective_rank(x) == pytest.approx(expected)


def test_effective_rank_of_equal_rows_is_one() -> None:
    assert health.effective_rank(np.full((5, 3), 0.1)) == 1


def test_nearest_neighbour_accuracy_matches_brute_force() -> None:
    z, groups = RNG.standard_normal((60, 3)), RNG.integers(4, size=60)

    hits = 0
    for i in range(60):
        distance = [np.inf if j == i else np.sum((z[i] - z[j]) ** 2) for j in range(60)]
        hits += groups[int(np.argmin(distance))] == groups[i]
    assert health.nearest_neighbour_accuracy(z, groups) == pytest.approx(hits / 60)


def test_chance_accuracy_is_what_random_embeddings_reach() -> None:
    groups = np.repeat(["a", "b", "c"], [300, 150, 50])
    trials = [health.nearest_neighbour_accuracy(RNG.standard_normal((500, 8)), groups) for _ in range(20)]
    assert health.chance_accuracy(groups) == pytest.approx(np.mean(trials), abs=0.02)


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        (health.read_alignment(0.05), "invisible"),
        (health.read_alignment(0.5), "similar"),
        (health.read_alignment(1.8), "weaker augmentations"),
        (health.read_uniformity(-0.1), "collapsed"),
        (health.read_uniformity(-1.5), "a part of the sphere"),
        (health.read_uniformity(-3.7), "not that the feature is the one"),
        (health.read_effective_rank(1.2, 64), "collapsed"),
        (health.read_effective_rank(20, 64), "no proof of health"),
        (health.read_group_accuracy(0.12, 0.1), "groups are invisible"),
        (health.read_group_accuracy(0.5, 0.1), "partly visible"),
        (health.read_group_accuracy(0.95, 0.1), "groups are visible"),
        (
            health.read_collapse({1: 0.7, 5: 0.84, 80: 0.72}, 0.1),
            "down from 84% after epoch 5: class collapse",
        ),
        (health.read_collapse({1: 0.7, 80: 0.84}, 0.1), "no lower than before"),
        (read_score_share(0.9, 0.1), "lighting and position"),
        (read_score_share(0.2, 0.8), "fine structure drives it"),
    ],
)
def test_each_number_has_a_reading(sentence: str, said: str) -> None:
    assert said in sentence


@pytest.mark.parametrize(
    ("call", "cure"),
    [
        (lambda: health.effective_rank(np.ones(4)), "add photos"),
        (lambda: health.uniformity([[0.0, np.nan], [1.0, 1.0]]), "learning rate"),
        (lambda: health.alignment(np.ones((3, 2)), np.ones((2, 2))), "both views"),
        (lambda: health.nearest_neighbour_accuracy(np.eye(3), ["a", "b", "c"]), "several photos share"),
        (lambda: health.nearest_neighbour_accuracy(np.eye(3), ["a", "a"]), "one group per photo"),
        (lambda: top_subspace(np.ones((4, 3)), 0.9), "different photos"),
        (lambda: score_share(np.zeros((2, 9)), mixed()), "photos that score"),
        (lambda: score_share(np.ones((2, 4)), mixed()), "one size"),
        (lambda: reconstruction_alignment(mixed(), np.zeros(400)), "two classes"),
        (lambda: reconstruction_alignment(mixed(), np.zeros(3)), "one each"),
        (
            lambda: reconstruction_alignment(
                mixed(), np.arange(400) % 2, PatchMasking(0.5, np.zeros(4, int))
            ),
            "per pixel",
        ),
    ],
)
def test_unusable_data_is_refused_with_the_cure(call, cure: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=cure):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: top_subspace(mixed(), 0),
        lambda: bottom_subspace(mixed(), 1.5),
        lambda: reconstruction_alignment(mixed(), np.arange(400) % 2, GaussianNoise(-1)),
        lambda: reconstruction_alignment(mixed(), np.arange(400) % 2, PatchMasking(1, np.arange(9))),
        lambda: read_alignment_curve([50.0, 100.0], 3),
    ],
)
def test_impossible_settings_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError):
        call()


# Subspaces


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_top_subspace_is_that_of_scikit_learn(share: float) -> None:
    x = mixed()
    pca = PCA(n_components=share, svd_solver="full").fit(x)
    top = top_subspace(x, share)
    assert top.dimensions == pca.n_components_
    np.testing.assert_allclose(np.abs(top.coordinates(x)), np.abs(pca.transform(x)), atol=1e-8)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6])
def test_bottom_subspace_is_the_largest_within_its_share(share: float) -> None:
    x = mixed()
    variance = PCA().fit(x).explained_variance_ratio_
    bottom = bottom_subspace(x, share)
    held = bottom.coordinates(x).var(0).sum() / x.var(0).sum()
    assert held <= share + 1e-9
    assert held + variance[len(variance) - bottom.dimensions - 1] > share


def test_all_of_the_variance_needs_all_directions_from_either_side() -> None:
    x = mixed()
    assert top_subspace(x, 1).dimensions == bottom_subspace(x, 1).dimensions == 9


def test_bottom_subspace_holds_directions_without_variance() -> None:
    x = np.zeros((50, 4))
    x[:, 0] = RNG.standard_normal(50)
    assert bottom_subspace(x, 0.1).dimensions == 3


def test_score_share_follows_the_residual() -> None:
    x = mixed()
    top = top_subspace(x, 0.9)
    inside = RNG.standard_normal((10, top.dimensions)) @ top.directions.T
    outside = RNG.standard_normal((10, 9))
    outside -= outside @ top.directions @ top.directions.T
    assert score_share(inside, x) == pytest.approx((1, 0), abs=1e-9)
    assert score_share(outside, x) == pytest.approx((0, 1), abs=1e-9)
    energy = np.square(inside).sum(), np.square(outside).sum()
    assert score_share(inside + outside, x)[0] == pytest.approx(energy[0] / sum(energy))


# Alignment of reconstruction with a signal


def test_square_patches_are_numbered_row_by_row() -> None:
    assert square_patches(3, 4, 2).reshape(3, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]


def test_alignment_counts_the_signal_in_the_leading_principal_components() -> None:
    x = mixed()
    y = np.random.default_rng(4).integers(3, size=400)
    centred = x - x.mean(0)
    left = np.linalg.svd(centred, full_matrices=False)[0]
    power = sum(np.square((y == c).astype(float) @ left) for c in range(3))
    expected = 100 * np.sqrt(np.cumsum(power) / power.sum())
    np.testing.assert_allclose(reconstruction_alignment(x, y), expected, atol=1e-6)


def test_a_signal_along_the_last_direction_is_kept_only_by_all_dimensions() -> None:
    x = mixed()
    last = np.linalg.svd(x - x.mean(0), full_matrices=False)[0][:, -1:]
    curve = reconstruction_alignment(x, last)
    assert curve[-1] == pytest.approx(100) and curve[-2] < 0.1
    assert "90 % need 9" in read_alignment_curve(curve, 4)
    assert "what matters" in read_alignment_curve(curve, 9)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_gaussian_noise_leaves_alignment_as_it_is(sigma: float) -> None:
    x, y = mixed(), np.arange(400) % 5
    noisy = reconstruction_alignment(x, y, GaussianNoise(sigma))
    np.testing.assert_allclose(noisy, reconstruction_alignment(x, y), atol=1e-6)


def test_masking_changes_alignment_unless_nothing_is_dropped() -> None:
    x, y = mixed(), np.random.default_rng(4).integers(2, size=400)
    plain = reconstruction_alignment(x, y)
    patches = square_patches(3, 3, 1)
    np.testing.assert_allclose(reconstruction_alignment(x, y, PatchMasking(0, patches)), plain, atol=1e-6)
    assert np.abs(reconstruction_alignment(x, y, PatchMasking(0.7, patches)) - plain).max() > 0.1


def test_masked_solution_is_the_best_rank_k_regression_from_masked_photos() -> None:
    """Reduced-rank regression on many sampled masks finds the same encoder, hence the same alignment."""
    x, y = mixed(200, 4), np.arange(200) % 2
    patches, drop, rng = np.array([0, 0, 1, 1]), 0.4, np.random.default_rng(0)
    centred = x - x.mean(0)
    seen = np.concatenate([centred * (rng.random((200, 2)) >= drop)[:, patches] for _ in range(2000)])
    target = np.tile(centred, (2000, 1))
    weights = np.linalg.lstsq(seen, target, rcond=None)[0]
    principal = np.linalg.svd(seen @ weights, full_matrices=False)[2].T
    encoder = weights @ principal
    q = np.linalg.qr(centred @ encoder)[0]
    power = sum(np.square((y == c).astype(float) @ q) for c in range(2))
    expected = 100 * np.sqrt(np.cumsum(power) / power.sum())
    np.testing.assert_allclose(
        reconstruction_alignment(x, y, PatchMasking(drop, patches)), expected, atol=0.5
    )


def test_constant_pixels_do_not_disturb_alignment() -> None:
    x, y = mixed(), np.arange(400) % 3
    padded = np.concatenate([x, np.full((400, 2), 7.0)], axis=1)
    np.testing.assert_allclose(reconstruction_alignment(padded, y), reconstruction_alignment(x, y), atol=1e-6)
