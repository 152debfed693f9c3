"""Arithmetic of maps, against plain loops."""

import numpy as np
import pytest

from anomaly.maps import By, MapStatistics, standardise_held_out, top_mean


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


@pytest.mark.parametrize("by", ["position", "radius", "whole"])
def test_held_out_statistics_are_those_of_the_others(maps: list[np.ndarray], by: By) -> None:
    quick = standardise_held_out(maps, by)
    for i in (0, 13, 29):
        slow = MapStatistics.of(maps[:i] + maps[i + 1 :], by).standardise(maps[i])
        np.testing.assert_allclose(quick[i], slow, rtol=1e-4, atol=1e-4)


def test_whole_map_statistics_are_mean_and_spread(maps: list[np.ndarray]) -> None:
    statistics = MapStatistics.of(maps, by="whole")
    assert statistics.mean[0, 0] == pytest.approx(np.mean(maps), rel=1e-5)
    assert statistics.spread[0, 0] == pytest.approx(np.std(maps), rel=1e-5)


def test_standardised_maps_are_in_units_of_the_spread_of_all_patches(maps: list[np.ndarray]) -> None:
    statistics = MapStatistics.of(maps, by="position")
    assert (1 / statistics.spread).mean() == pytest.approx(1 / np.std(maps), rel=1e-4)
    assert statistics.spread[:, -1].mean() > 2 * statistics.spread[:, 0].mean()


def test_by_radius_spreads_are_those_of_patches_as_far_from_the_middle() -> None:
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:31, :31] - 15
    radius = np.hypot(rows, columns)
    spread = np.where(radius < 8, 1.0, 3.0)
    ramp = np.linspace(0, 5, 31)  # differs by position, as an edge that turns with the part does not
    statistics = MapStatistics.of(
        [(4 + ramp + spread * rng.normal(size=(31, 31))).astype(np.float32) for _ in range(40)], by="radius"
    )
    assert statistics.mean.shape == (1, 1)
    np.testing.assert_allclose(statistics.spread, np.rot90(statistics.spread), rtol=1e-5)
    inner, outer = statistics.spread[radius < 6], statistics.spread[(radius > 10) & (radius < 15)]
    assert 1.3 < outer.mean() / inner.mean() < 3
    assert np.ptp(inner) < 0.3 * inner.mean()


def test_even_places_below_varied_ones_have_a_spread() -> None:
    rng = np.random.default_rng(0)
    maps = [np.zeros((32, 32), np.float32) for _ in range(20)]
    for values in maps:
        values[:16] = 1000 * rng.random((16, 32))
    spread = MapStatistics.of(maps, by="position").spread
    assert np.isfinite(spread).all() and spread[24:].max() < spread[:12].min()


def test_a_map_of_another_size_is_met_by_resized_statistics(maps: list[np.ndarray]) -> None:
    statistics = MapStatistics.of(maps, by="position")
    assert statistics.standardise(np.ones((24, 40), np.float32)).shape == (24, 40)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 4)])
@pytest.mark.parametrize("by", ["position", "radius", "whole"])
def test_constant_maps_do_not_divide_by_zero(by: By, shape: tuple[int, int]) -> None:
    same = [np.full(shape, 3.0, np.float32)] * 10
    assert np.isfinite(MapStatistics.of(same, by).standardise(same[0])).all()
