"""Pictures of an anomaly map: one scale, exact places, photos that stay visible."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from anomaly import render
from anomaly.errors import ConfigError, DataError

THRESHOLD, CEILING = 2.0, 6.0


def lab(rgb):
    """(N, 3) uint8 RGB -> CIE L*a*b*."""
    return cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def blob(shape=(120, 160), box=(40, 60, 60, 90), peak=5.0):
    anomaly_map = np.full(shape, 0.5, np.float32)
    anomaly_map[box[0] : box[2], box[1] : box[3]] = peak
    return anomaly_map


@pytest.mark.parametrize("threshold, ceiling", [(2.0, 6.0), (0.0, 1.0), (-3.0, -1.0), (0.01, 500.0)])
def test_the_scale_rises_in_luminance_and_jumps_at_the_threshold(threshold, ceiling):
    above = np.nextafter(threshold, np.inf)
    values = np.sort(np.r_[np.linspace(threshold - 2, ceiling + 1, 2000), threshold, above])
    colours = lab(render.colourise(values[None], threshold, ceiling)[0])
    assert (np.diff(colours[:, 0]) > -0.25).all()
    at_threshold = np.searchsorted(values, threshold)
    assert colours[at_threshold, 0] - colours[0, 0] > 20
    assert colours[-1, 0] - colours[at_threshold, 0] > 40
    change = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert change.argmax() == np.searchsorted(values, above) - 1
    assert change.max() > 50


def test_a_value_has_one_colour_in_every_picture_of_a_run():
    first, second = np.full((4, 5), 3.3, np.float32), blob(peak=40.0)
    second[7, 9] = 3.3
    one = render.colourise(first, THRESHOLD, CEILING)[0, 0]
    other = render.colourise(second, THRESHOLD, CEILING)[7, 9]
    assert one.tolist() == other.tolist()


def test_beyond_the_ceiling_is_hottest_and_not_a_number_is_quietest():
    row = render.colourise(np.array([[CEILING, 1e9, np.inf, np.nan, 0.0, -np.inf]]), THRESHOLD, CEILING)[0]
    assert (row[:3] == row[0]).all()
    assert (row[3:] == row[4]).all()


def test_a_ceiling_below_the_threshold_is_refused():
    with pytest.raises(ConfigError, match="ceiling 1 must lie above its threshold 2"):
        render.colourise(blob(), 2.0, 1.0)


def test_an_overlay_keeps_the_photo_below_the_threshold_and_lights_the_defect():
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    anomaly_map = blob()
    anomaly_map[:, :20] = THRESHOLD
    change = np.abs(render.overlay(image, anomaly_map, THRESHOLD, CEILING).astype(int) - image).max(axis=2)
    defect = anomaly_map > THRESHOLD
    assert change[~defect].max() <= 0.08 * 255 + 0.5
    assert np.median(change[defect]) > 80
    flat = np.zeros((120, 160), np.float32)
    assert (render.overlay(image, flat, THRESHOLD, CEILING) == image).all()


def test_an_overlay_grows_with_the_value():
    image = np.zeros((1, 50, 3), np.uint8)
    ramp = np.linspace(0, CEILING, 50)[None]
    brightness = render.overlay(image, ramp, THRESHOLD, CEILING)[0].astype(int).sum(axis=1)
    assert (np.diff(brightness) >= 0).all()
    assert brightness[-1] > 300


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_an_outline_shows_on_any_ground_and_leaves_the_defect_alone(shade):
    image, anomaly_map = np.full((120, 160, 3), shade, np.uint8), blob()
    drawn = render.outline(image, anomaly_map, THRESHOLD)
    far = np.linalg.norm(lab(drawn.reshape(-1, 3)) - lab(image.reshape(-1, 3)), axis=1).reshape(120, 160) > 50
    distance = ndimage.distance_transform_edt(anomaly_map <= THRESHOLD)
    assert far.any()
    assert not (drawn != image).any(axis=2)[(distance == 0) | (distance > 12)].any()
    rays = far[50, :60].any(), far[50, 90:].any(), far[:40, 75].any(), far[60:, 75].any()
    assert rays == (True, True, True, True)
    assert (image == shade).all()


def test_nothing_above_the_threshold_draws_nothing():
    image = np.full((30, 40, 3), 90, np.uint8)
    assert (render.outline(image, np.full((30, 40), THRESHOLD, np.float32), THRESHOLD) == image).all()


@pytest.mark.parametrize(
    "draw", [lambda i, m: render.overlay(i, m, 1, 2), lambda i, m: render.outline(i, m, 1)]
)
def test_a_map_of_another_size_is_refused(draw):
    with pytest.raises(DataError, match="resize the map"):
        draw(np.zeros((20, 30, 3), np.uint8), np.zeros((10, 15), np.float32))


def test_regions_are_exact_and_the_highest_comes_first():
    anomaly_map = np.zeros((20, 30), np.float32)
    anomaly_map[2:5, 3:9] = 3.0
    anomaly_map[10, 20] = 4.0
    anomaly_map[11, 21] = 7.0  # touches by a corner
    anomaly_map[19, 29] = 2.5
    anomaly_map[0, 0] = THRESHOLD
    found = render.regions(anomaly_map, THRESHOLD)
    assert [(r.box, r.area, r.peak) for r in found] == [
        ((10, 20, 12, 22), 2, 7.0),
        ((2, 3, 5, 9), 18, 3.0),
        ((19, 29, 20, 30), 1, 2.5),
    ]
    assert [r.area for r in render.regions(anomaly_map, THRESHOLD, min_area=2)] == [2, 18]
    assert render.regions(anomaly_map, 7.0) == ()


def test_regions_agree_with_scipy():
    anomaly_map = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(90, 70)), 1.5).astype(
        np.float32
    )
    labels, count = ndimage.label(anomaly_map > 0.1, np.ones((3, 3)))
    expected = sorted(
        (
            float(anomaly_map[labels == k].max()),
            int((labels == k).sum()),
            (rows.start, cols.start, rows.stop, cols.stop),
        )
        for k, (rows, cols) in enumerate(ndimage.find_objects(labels), start=1)
    )
    found = render.regions(anomaly_map, 0.1)
    assert count > 10
    assert sorted((r.peak, r.area, r.box) for r in found) == expected
    assert [r.peak for r in found] == sorted((r.peak for r in found), reverse=True)


def test_a_region_exists_exactly_when_the_peak_is_above_the_threshold():
    anomaly_map = np.full((3, 3), 0.1, np.float32)  # 0.1 in float32 lies above 0.1 in float64
    assert float(anomaly_map.max()) > 0.1
    assert len(render.regions(anomaly_map, 0.1)) == 1
    assert render.regions(anomaly_map, float(anomaly_map.max())) == ()


def test_pictures_survive_their_files():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = (200, 30, 10)
    image[:, 30:] = (10, 60, 220)
    for data, tolerance in ((render.png_bytes(image), 0), (render.jpeg_bytes(image, 95), 12)):
        back = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        off = np.abs(back.astype(int) - image)[:, np.r_[0:20, 40:60]]
        assert off.max() <= tolerance
    assert len(render.jpeg_bytes(blob().astype(np.uint8), 20)) < len(
        render.jpeg_bytes(blob().astype(np.uint8), 95)
    )


def test_a_thumbnail_keeps_the_aspect_and_never_enlarges():
    assert render.thumbnail(np.zeros((300, 600, 3), np.uint8), 100).shape == (50, 100, 3)
    assert render.thumbnail(np.zeros((2000, 3), np.uint8), 100).shape == (100, 1)
    small = np.zeros((30, 20, 3), np.uint8)
    assert render.thumbnail(small, 100) is small


def test_the_legend_names_its_three_values_and_shows_the_hottest_colour():
    svg = render.legend(2.5, 7.5)
    assert "threshold 2.5" in svg and "7.5 or more" in svg
    hottest = render.colourise(np.array([[7.5]]), 2.5, 7.5)[0, 0]
    assert "rgb({},{},{})".format(*hottest) in svg
