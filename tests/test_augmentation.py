"""Views: none at strength 0, the same by seed, and an honest account of where each pixel came from."""

from pathlib import Path

import numpy as np
import pytest

from anomaly.data.augmentation import RANGES, ViewMaker, pipeline
from anomaly.errors import ConfigError


@pytest.fixture
def crop() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_strength_zero_changes_nothing(crop: np.ndarray) -> None:
    view, origin = ViewMaker(0.0, 1).view(crop)
    np.testing.assert_array_equal(view, crop)
    np.testing.assert_array_equal(origin[..., 0], np.mgrid[:64, :96][0])
    np.testing.assert_array_equal(origin[..., 1], np.mgrid[:64, :96][1])


def test_the_same_seed_gives_the_same_views(crop: np.ndarray) -> None:
    first, second, other = (ViewMaker(0.7, seed).view(crop)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_origin_tells_where_a_pixel_came_from() -> None:
    rows, cols = np.mgrid[:64, :96]
    ramp = np.stack([rows, cols, 0 * rows], axis=-1).astype(np.uint8)
    maker = ViewMaker(0.8, 5)
    maker._pipeline.transforms = [
        t
        for t in maker._pipeline.transforms
        if type(t).__name__ in ("Affine", "HorizontalFlip", "VerticalFlip")
    ]
    for _ in range(5):
        view, origin = maker.view(ramp)
        inside = slice(16, 48), slice(24, 72)
        assert np.abs(view[..., :2].astype(float) - origin)[inside].mean() < 1.5


def test_stronger_changes_more(crop: np.ndarray) -> None:
    def change(strength: float) -> float:
        maker = ViewMaker(strength, 0)
        smooth = np.full_like(crop, 120)
        return float(np.mean([np.abs(maker.view(smooth)[0].astype(float) - 120).mean() for _ in range(20)]))

    assert change(0.0) < change(0.3) < change(1.0)


def test_every_transform_has_its_range_written_down() -> None:
    assert {type(step).__name__ for step in pipeline(1.0, 0).transforms} == set(RANGES)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_strength_outside_the_dial_is_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match="between 0"):
        pipeline(strength, 0)


def test_the_documentation_has_the_ranges() -> None:
    page = (Path(__file__).parent.parent / "docs/augmentation.md").read_text()
    for name, words in RANGES.items():
        assert f"| {name} | {words} |" in page
