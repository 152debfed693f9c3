"""Arithmetic of maps, against plain loops."""

import numpy as np
import pytest

from anomaly.maps import MapStatistics, standardise_held_out, top_mean


@pytest.fixture
def maps() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    slope = np.linspace(1, 9, 20)[None, :]
    return [(slope + slope * rng.normal(0, 0.2, (12, 20))).astype(np.float32) for _ in range(30)]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.99])
def test_top_mean_is_the_mean_of_the_largest(share: float) -> None:
    values = np.random.default_rng(1).normal(size=(17, 13)).astype(np.float32)
    count = max(1, round(share * values.size))
    assert top_mean(values, share) == pytest.approx(np.sort(values.ravel())[-count:].mean(), rel=1e-6)


@pytest.mark.parametrize("by_position", [False, True])
def test_held_out_statistics_are_those_of_the_others(maps: list[np.ndarray], by_position: bool) -> None:
    quick = standardise_held_out(maps, by_position)
    for i in (0, 13, 29):
        slow = MapStatistics.of(maps[:i] + maps[i + 1 :], by_position).standardise(maps[i])
        np.testing.assert_allclose(quick[i], slow, rtol=1e-4, atol=1e-4)


def test_whole_map_statistics_are_mean_and_spread(maps: list[np.ndarray]) -> None:
    statistics = MapStatistics.of(maps, by_position=False)
    assert statistics.mean[0, 0] == pytest.approx(np.mean(maps), rel=1e-5)
    assert statistics.spread[0, 0] == pytest.approx(np.std(maps), rel=1e-5)


def test_standardised_maps_are_in_units_of_the_spread_of_all_patches(maps: list[np.ndarray]) -> None:
    statistics = MapStatistics.of(maps, by_position=True)
    assert (1 / statistics.spread).mean() == pytest.approx(1 / np.std(maps), rel=1e-4)
    assert statistics.spread[:, -1].mean() > 2 * statistics.spread[:, 0].mean()


def test_a_map_of_another_size_is_met_by_resized_statistics(maps: list[np.ndarray]) -> None:
    statistics = MapStatistics.of(maps, by_position=True)
    assert statistics.standardise(np.ones((24, 40), np.float32)).shape == (24, 40)


def test_constant_maps_do_not_divide_by_zero() -> None:
    same = [np.full((4, 4), 3.0, np.float32)] * 10
    assert np.isfinite(MapStatistics.of(same, True).standardise(same[0])).all()
