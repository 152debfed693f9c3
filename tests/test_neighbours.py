"""The memory bank against brute force."""

import numpy as np
import pytest

from anomaly.neighbours import EXACT_BELOW, MemoryBank, coreset


def nearest(bank: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return np.array([np.sqrt(((bank - query) ** 2).sum(1).min()) for query in queries])


def test_small_bank_is_exact() -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(500, 8)).astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)
    np.testing.assert_allclose(MemoryBank.build(bank).distance(queries), nearest(bank, queries), rtol=1e-3)


def test_large_bank_is_close_and_its_parts_rebuild_it() -> None:
    rng = np.random.default_rng(1)
    bank = rng.normal(size=(EXACT_BELOW + 1000, 4)).astype(np.float32)
    queries = rng.normal(size=(200, 4)).astype(np.float32)
    built = MemoryBank.build(bank)
    exact = nearest(bank, queries)
    assert len(built.centroids) > 0
    assert (built.distance(queries) <= exact * 1.05 + 1e-3).mean() > 0.95
    again = MemoryBank(built.patches, built.centroids)
    np.testing.assert_array_equal(again.distance(queries), built.distance(queries))


def test_a_bank_that_grows_only_shortens_distances() -> None:
    rng = np.random.default_rng(4)
    bank = rng.normal(size=(EXACT_BELOW + 1000, 8)).astype(np.float32)
    queries = rng.normal(size=(500, 8)).astype(np.float32)
    before = MemoryBank.build(bank)
    added = rng.normal(size=(9000, 8)).astype(np.float32)
    after = MemoryBank(np.concatenate([before.patches, added]), before.centroids)
    shorter = after.distance(queries) / before.distance(queries)
    assert (shorter <= 1 + 1e-6).all() and (shorter < 0.999).mean() > 0.05
    assert (after.distance(queries) >= nearest(after.patches, queries) * (1 - 1e-5)).all()


def test_cells_without_patches_and_queries_that_are_no_numbers() -> None:
    bank = np.zeros((20, 4), np.float32)
    bank[:, 0] = np.arange(20)
    near, far = np.zeros((1, 4), np.float32), 100 + np.arange(40, dtype=np.float32).reshape(10, 4)
    queries = np.array([[3.25, 0, 0, 0], [np.nan, 0, 0, 0]], np.float32)
    found = MemoryBank(bank, np.concatenate([near, far])).distance(queries)
    assert found[0] == 0.25 and np.isnan(found[1])
    empty = np.concatenate([near - 9, 50 + far])  # the nearest eight of `far` hold no patch
    assert np.isposinf(MemoryBank(bank, empty).distance(far[:1])).all()


def test_distance_does_not_depend_on_what_else_is_asked() -> None:
    rng = np.random.default_rng(2)
    bank = MemoryBank.build(rng.normal(size=(300, 16)).astype(np.float32))
    queries = rng.normal(size=(64, 16)).astype(np.float32)
    alone = np.concatenate([bank.distance(query[None]) for query in queries])
    np.testing.assert_allclose(bank.distance(queries), alone, rtol=1e-5)


@pytest.mark.parametrize("size", [10, 100])
def test_coreset_covers_the_far_corner_that_chance_misses(size: int) -> None:
    rng = np.random.default_rng(3)
    crowd = rng.normal(size=(5000, 3)).astype(np.float32)
    corner = np.array([[30, 30, 30]], np.float32)
    kept = coreset(np.concatenate([crowd, corner]), size, seed=0)
    assert len(kept) == size
    assert (np.abs(kept - corner).max(1) < 1e-3).any()


def test_coreset_keeps_all_of_few() -> None:
    few = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(coreset(few, 10, seed=0), few)
