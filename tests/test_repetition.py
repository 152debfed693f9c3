"""The distance of a patch to the rest of its own photo, and what it limits."""

import numpy as np
import pytest
import torch

from anomaly.config import RunConfig
from anomaly.detector import fuse
from anomaly.maps import LIMIT, LIMIT_MARGIN, REPEATS, MapStatistics, limited
from anomaly.repetition import own_distances, own_distances_of
from anomaly.scorers import FitContext, build_scorers
from anomaly.scorers.embedding import EmbeddingDistance, EmbeddingOptions
from anomaly.scorers.texture import TextureDistance, TextureOptions


def test_the_patch_nearer_than_all_but_a_few_is_asked() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(7, 20, 31)).astype(np.float32)
    found = own_distances(values)
    others = values[:, :, ::2].reshape(7, -1).T
    exact = np.linalg.norm(values.reshape(7, -1).T[:, None] - others, axis=2)
    rank = round(0.03 * len(others))
    np.testing.assert_allclose(found.ravel(), np.sort(exact, axis=1)[:, rank], rtol=1e-4)


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (20, 31)])
def test_torch_and_numpy_agree_down_to_the_smallest_photos(size: tuple[int, int]) -> None:
    values = np.random.default_rng(6).normal(size=(4, *size)).astype(np.float32)
    found = own_distances(values)
    assert found.shape == size and np.isfinite(found).all()
    again = own_distances_of(torch.from_numpy(values)[None])[0, 0]
    np.testing.assert_allclose(again.numpy(), found, rtol=1e-4)


def test_a_large_photo_is_compared_with_no_more_patches_than_a_small_one() -> None:
    """The photo twice as large shows the same four times: distances are those of the small one."""
    rng = np.random.default_rng(7)
    small = rng.normal(size=(5, 64, 64)).astype(np.float32)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    found = own_distances(small).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(own_distances(large), found, rtol=1e-4)


def test_no_branch_exceeds_its_limit_by_more_than_the_margin() -> None:
    values = np.array([[5.0, 5.0, 9.0]], np.float32)
    limit = np.array([[-0.5, 4.0, 1.0]], np.float32)
    found = limited({"a": values, "a" + LIMIT: limit, "b": values})
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [[LIMIT_MARGIN - 0.5, 5.0, 1 + LIMIT_MARGIN]]
    assert found["b"].tolist() == values.tolist()
    scores = fuse({"a": values, "a" + LIMIT: limit}, {"a": 1.0}, 0.01)
    assert scores.image_score == 5.0 and scores.branch_scores == {"a": 5.0}


def test_what_repeats_itself_more_than_good_patches_is_not_excused_by_that() -> None:
    limit = np.array([[REPEATS - 2, REPEATS, REPEATS + 1e-6]], np.float32)
    found = limited({"a": np.full((1, 3), 9.0, np.float32), "a" + LIMIT: limit})["a"]
    np.testing.assert_allclose(found, [[9.0, REPEATS + LIMIT_MARGIN, REPEATS + LIMIT_MARGIN]], rtol=1e-4)


def test_a_photo_that_is_new_all_over_counts_little_and_a_defect_on_it_as_before() -> None:
    """All of a new photo is shifted away from the training photos; one patch is odd there as well."""
    generator = torch.Generator().manual_seed(0)
    scorer = EmbeddingDistance(EmbeddingOptions(relative=0.0))
    scorer.fit([torch.randn(6, 20, 20, generator=generator) for _ in range(8)], FitContext())
    held_out = [torch.randn(6, 20, 20, generator=generator) for _ in range(8)]
    score = MapStatistics.of([scorer.score(photo).numpy() for photo in held_out], "position")
    limit = MapStatistics.of([scorer.limit(photo).numpy() for photo in held_out], "position")
    elsewhere = torch.randn(6, 20, 20, generator=generator) + 6
    elsewhere[:, 9, 9] += 12
    free = score.standardise(scorer.score(elsewhere).numpy())
    bound = limit.standardise(scorer.limit(elsewhere).numpy())
    found = limited({"a": free, "a" + LIMIT: bound})["a"]
    assert np.median(free) > 10
    assert np.median(found) < 4
    assert found[9, 9] > 10
    blank = torch.full((6, 20, 20), 6.0)
    free = score.standardise(scorer.score(blank).numpy())
    bound = limit.standardise(scorer.limit(blank).numpy())
    assert np.median(limited({"a": free, "a" + LIMIT: bound})["a"]) > 5, "a blank photo is near itself alone"


def test_texture_is_not_limited_and_the_embedding_can_be_left_so() -> None:
    assert EmbeddingDistance(EmbeddingOptions()).limited
    assert not EmbeddingDistance(EmbeddingOptions(own_photo=False)).limited
    assert not TextureDistance(TextureOptions()).limited


@pytest.mark.parametrize(
    ("settings", "bounded"),
    [
        ([], {"embedding", "coarse"}),
        (["backbone=none"], set()),
        (["backbone=none", "scorers.embedding.own_photo=true"], {"embedding"}),
        (["scorers.embedding.own_photo=false", "scorers.texture.own_photo=true"], {"coarse", "texture"}),
    ],
)
def test_a_backbone_that_learns_from_nothing_has_no_limit(settings: list[str], bounded: set[str]) -> None:
    scorers = build_scorers(RunConfig.load(None, settings).branches)
    assert {name for name, scorer in scorers.items() if scorer.limited} == bounded
