"""Every probe: drawn the same again, inside the product, and more of it with more magnitude."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from conftest import draw_photo

from anomaly.data.augmentation import RANGES
from anomaly.data.foreground import foreground
from anomaly.errors import ConfigError, DataError
from anomaly.probes import PROBES, chosen

ALL = PROBES.names()
SIZE = (160, 200)
PRODUCT = (slice(30, 130), slice(40, 170))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A coloured, structured part on a plain tray."""
    rng = np.random.default_rng(1)
    out = np.full((*SIZE, 3), (40, 60, 80), np.float64)
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]]
    part = 140 + 30 * np.sin(rows / 3) + 20 * np.sin(cols / 5) + 15 * (cols > 100)
    out[PRODUCT] = (part[:, :, None] + (20, 0, -25))[PRODUCT]
    return np.clip(out + rng.normal(0, 1.5, out.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def product() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[PRODUCT] = True
    return mask


def rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_there_are_enough_of_them_and_they_say_what_they_draw() -> None:
    assert len(ALL) >= 15
    for one in chosen():
        assert len(one.magnitudes) >= 5 and list(one.magnitudes) == sorted(set(one.magnitudes)), one.name
        assert set(one.resembles) <= set(RANGES), one.name
        assert str(one.__doc__).partition("\n")[0].endswith("."), one.name


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("on_tray", [True, False], ids=["tray", "texture"])
def test_a_probe_is_drawn_inside_the_product_and_the_same_again(
    name: str, on_tray: bool, photo: np.ndarray, product: np.ndarray
) -> None:
    one = PROBES.get(name)
    where = product if on_tray else np.ones(SIZE, bool)
    before = photo.copy()
    changed, mask = one.apply(photo, where, one.magnitudes[-2], rng())
    again, same_mask = one.apply(photo, where, one.magnitudes[-2], rng())
    assert np.array_equal(changed, again) and np.array_equal(mask, same_mask)
    assert np.array_equal(photo, before)
    assert changed.dtype == np.uint8 and changed.shape == photo.shape and mask.any()
    if one.kind != "geometry":
        assert np.array_equal(changed[~where], photo[~where])
    assert (changed[mask] != photo[mask]).any(axis=1).all()


@pytest.mark.parametrize("name", ALL)
def test_more_magnitude_changes_more(name: str, photo: np.ndarray, product: np.ndarray) -> None:
    one = PROBES.get(name)

    def change(magnitude: float) -> float:
        """Mean absolute change over several drawings."""
        drawn = [one.apply(photo, product, magnitude, rng(seed))[0] for seed in range(5)]
        return float(np.mean([np.abs(p.astype(float) - photo).mean() for p in drawn]))

    changes = [change(magnitude) for magnitude in one.levels(SIZE)]
    assert changes[0] > 0
    assert all(later > 0.9 * earlier for earlier, later in pairwise(changes))
    assert changes[-1] > 2 * changes[0]


@pytest.mark.parametrize("name", [one.name for one in chosen() if one.contrast])
def test_the_extent_and_the_contrast_of_a_defect_are_what_was_asked_for(name: str) -> None:
    one = PROBES.get(name)
    plain = np.full((120, 120, 3), 128, np.uint8)
    for size in (16.0, 40.0):
        for contrast in (20.0, 60.0):
            drawn = [one.apply(plain, np.ones((120, 120), bool), size, rng(i), contrast) for i in range(4)]
            extents, heights = [], []
            for changed, mask in drawn:
                points = np.argwhere(mask)
                spread = points[:, None] - points[None, :: max(1, len(points) // 200)]
                extents.append(np.sqrt((spread**2).sum(-1)).max())
                heights.append(np.abs(changed.astype(int) - 128).max())
            assert np.mean(extents) == pytest.approx(size, rel=0.3), "size"
            assert np.mean(heights) == pytest.approx(contrast, rel=0.15), "contrast"


def test_colour_does_not_show_on_a_grey_photo(product: np.ndarray) -> None:
    grey = np.repeat(rng().integers(60, 200, (*SIZE, 1), dtype=np.uint8), 3, axis=2)
    for name in ("tint", "desaturate"):
        changed, mask = PROBES.get(name).apply(grey, product, 40, rng())
        assert np.array_equal(changed, grey) and not mask.any()


def test_brighten_and_shift_are_exact(photo: np.ndarray, product: np.ndarray) -> None:
    brighter, _ = PROBES.get("brighten").apply(photo, product, 10, rng())
    inside = (slice(40, 120), slice(50, 160))
    assert np.array_equal(brighter[inside], np.minimum(photo[inside].astype(int) + 10, 255))
    moved, _ = PROBES.get("shift").apply(photo, product, 12, rng())
    was = np.argwhere(foreground(photo)).mean(axis=0)
    now = np.argwhere(foreground(moved)).mean(axis=0)
    assert np.hypot(*(now - was)) == pytest.approx(12, abs=1.5)


def test_sizes_grow_with_large_photos_and_angles_do_not() -> None:
    assert PROBES.get("spot").levels((1024, 2048))[0] == 4 * PROBES.get("spot").levels((100, 100))[0]
    assert PROBES.get("rotate").levels((1024, 2048)) == PROBES.get("rotate").magnitudes


def test_what_makes_no_sense_is_refused(photo: np.ndarray, product: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="magnitude of spot is 0 px: give more than 0"):
        PROBES.get("spot").apply(photo, product, 0, rng())
    with pytest.raises(ConfigError, match="leave contrast out"):
        PROBES.get("blur").apply(photo, product, 1, rng(), contrast=5)
    with pytest.raises(ConfigError, match="give more than 0 grey levels"):
        PROBES.get("spot").apply(photo, product, 5, rng(), contrast=-5)
    with pytest.raises(DataError, match="not empty: use the whole photo"):
        PROBES.get("spot").apply(photo, np.zeros(SIZE, bool), 5, rng())
    with pytest.raises(ConfigError, match="did you mean 'scratch'"):
        chosen(["scrach"])


def test_a_tiny_photo_is_no_obstacle() -> None:
    tiny = rng().integers(0, 255, (9, 7, 3), dtype=np.uint8)
    for one in chosen():
        for magnitude in one.levels((9, 7)):
            assert one.apply(tiny, np.ones((9, 7), bool), magnitude, rng())[0].shape == (9, 7, 3)


def test_foreground_is_the_part_and_without_a_tray_everything(photo: np.ndarray, product: np.ndarray) -> None:
    found = foreground(photo)
    assert (found & product).sum() / (found | product).sum() > 0.93
    assert foreground(rng().integers(90, 110, (64, 64, 3), dtype=np.uint8)).all()
    ring = foreground(draw_photo(rng()))
    assert 0.08 < ring.mean() < 0.5 and not ring[0].any()
    hole = photo.copy()
    hole[60:90, 80:120] = hole[0, 0]
    assert not foreground(hole)[65:85, 85:115].any()
