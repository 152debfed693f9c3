"""Working sizes, and the way back to the photo."""

import numpy as np
import pytest

from anomaly.data.geometry import AREA, MULTIPLE, Geometry


def test_photos_of_one_framing_get_one_long_side() -> None:
    geometry = Geometry.choose([(1200, 1600)] * 5, "auto")
    assert geometry.factor is None
    height, width = geometry.working_size((1200, 1600))
    assert height * width <= 1.1 * AREA
    assert height / width == pytest.approx(0.75, rel=0.05)
    assert geometry.working_size((600, 800)) == (height, width)


def test_crops_of_one_camera_keep_their_scale() -> None:
    geometry = Geometry.choose([(700, 900), (900, 700), (800, 400), (512, 512)], "auto")
    assert geometry.factor is not None and geometry.factor < 1
    for size in ((640, 1280), (320, 640), (999, 400)):
        assert geometry.working_size(size) == pytest.approx([geometry.factor * side for side in size], abs=16)


def test_small_photos_are_enlarged_by_half_at_most_unless_asked() -> None:
    assert Geometry.choose([(128, 256)] * 3, "auto").working_size((128, 256)) == (192, 384)
    height, width = Geometry.choose([(480, 480)] * 3, "auto").working_size((480, 480))
    assert height * width == AREA
    assert Geometry.choose([(96, 128)] * 3, 256).working_size((96, 128)) == (192, 256)


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (103, 377), (4000, 3000)])
def test_any_photo_has_a_working_size(size: tuple[int, int]) -> None:
    geometry = Geometry.choose([(300, 400)] * 3, "auto")
    photo = np.zeros((*size, 3), np.uint8)
    working = geometry.working(photo)
    assert working.shape[0] % MULTIPLE == working.shape[1] % MULTIPLE == 0
    assert geometry.to_photo(np.zeros((3, 4), np.float32), size).shape == size


@pytest.mark.parametrize("size", [(480, 640), (1000, 333), (77, 99)])
def test_a_patch_lights_the_place_it_shows(size: tuple[int, int]) -> None:
    geometry = Geometry.choose([size] * 3, "auto")
    height, width = geometry.working_size(size)
    patches = np.zeros((height // 16, width // 16), np.float32)
    row, col = height // 16 * 2 // 3, width // 16 // 4
    patches[row, col] = 1
    peak = np.unravel_index(geometry.to_photo(patches, size).argmax(), size)
    assert peak[0] == pytest.approx(
        (row + 0.5) / patches.shape[0] * size[0], abs=size[0] / patches.shape[0] / 2
    )
    assert peak[1] == pytest.approx(
        (col + 0.5) / patches.shape[1] * size[1], abs=size[1] / patches.shape[1] / 2
    )
