"""A product that always lies alike on a tray: the same part of every photo is judged."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import QUICK, SPOT, draw_photo

from anomaly.bundle import Bundle, read_bundle
from anomaly.config import RunConfig
from anomaly.data.geometry import Geometry
from anomaly.data.registration import shrunk
from anomaly.data.window import Window
from anomaly.detector import LOST
from anomaly.errors import BundleError, ImageError
from anomaly.export.write import export
from anomaly.fitting.run import fit
from anomaly.policy.regions import RegionRules

ROOT = Path(__file__).parent.parent
SIZE = (200, 300)


def plate(rng: np.random.Generator, *, leads: bool = False, size: int = 40) -> np.ndarray:
    """A bright plate of twice `size` at about (90, 180) on a dark tray; `leads` are faint, and far beside."""
    photo = np.full((*SIZE, 3), 60.0)
    row, column = 90 + int(rng.integers(-3, 4)), 180 + int(rng.integers(-3, 4))
    cv2.rectangle(photo, (column - size, row - size), (column + size, row + size), (170, 160, 150), -1)
    if leads:
        photo[40:170, 30:36] += 25
    return np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)


def learnt(count: int = 24, **how: object) -> Window | None:
    rng = np.random.default_rng(0)
    return Window.learn([shrunk(plate(rng, **how)) for _ in range(count)])  # type: ignore[arg-type]


def test_it_shows_the_product_and_a_margin() -> None:
    window = learnt()
    assert window is not None
    rows, columns = window.slices(SIZE)
    assert 20 < rows.start < 90 - 43 and 90 + 43 < rows.stop < 165
    assert 110 < columns.start < 180 - 43 and 180 + 43 < columns.stop < 250
    assert window.cut_size(SIZE) == (rows.stop - rows.start, columns.stop - columns.start)
    assert window.slices((400, 600))[0].start == pytest.approx(2 * rows.start, abs=1)


def test_photos_without_a_tray_to_cut_off_are_judged_whole() -> None:
    assert learnt(size=95) is None  # the product fills the photo
    assert learnt(leads=True) is None  # what belongs to the product lies beside it
    assert learnt(count=7) is None
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8) for _ in range(24)]
    assert Window.learn([shrunk(photo) for photo in noise]) is None
    assert Window.learn([shrunk(plate(rng)[:, : 200 + i]) for i in range(24)]) is None  # shapes differ


def test_what_lights_up_lights_up_in_its_place() -> None:
    window = learnt()
    geometry = Geometry.choose([SIZE], "auto", window)
    photo = plate(np.random.default_rng(2))
    photo[60:64, 150:154] = 255
    view = geometry.view(photo)
    assert view.place is not None and view.place.as_learnt
    assert view.photo.shape[:2] == geometry.working_size(SIZE)
    bright = cv2.blur((view.photo[:, :, 0] > 220).astype(np.float32), (5, 5))
    full = geometry.to_photo(bright, SIZE, view.place)
    row, column = np.unravel_index(full.argmax(), SIZE)
    assert full.shape == SIZE and abs(row - 61.5) < 3 and abs(column - 151.5) < 3
    assert full[0, 0] == full.min()


@pytest.mark.parametrize("grey", [10, 200])
def test_something_on_the_tray_is_seen(grey: int) -> None:
    geometry = Geometry.choose([SIZE], "auto", learnt())
    photo = plate(np.random.default_rng(3))
    cv2.circle(photo, (40, 160), 6, (grey, grey, grey), -1)
    place = geometry.view(photo).place
    assert place is not None and place.found and place.beside is not None
    row, column = np.argwhere(place.beside).mean(0) * SIZE[0] / len(place.beside)
    assert abs(row - 160) < 3 and abs(column - 40) < 3


@pytest.fixture(scope="module")
def cut_model(product: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("cut") / "model"
    told: list[str] = []
    fitted = fit(product, out, RunConfig.load(None, [*QUICK, "data.cut_out=true"]), say=told.append)
    assert fitted.result.cut_out == "window"
    assert any("every photo is cut to it" in sentence for sentence in told)
    return read_bundle(out)


def test_a_model_keeps_its_window(cut_model: Bundle) -> None:
    detector = cut_model.detector
    assert detector.geometry.window is not None
    good, bad = (draw_photo(np.random.default_rng(4), bad=spotted) for spotted in (False, True))
    scores = detector.score(bad)
    assert scores.image_score > detector.score(good).image_score
    row, column = np.unravel_index(detector.full_map(scores, bad).argmax(), bad.shape[:2])
    assert np.hypot(row - SPOT[0], column - SPOT[1]) < 14


def test_the_map_shows_what_lies_beside_the_product(cut_model: Bundle) -> None:
    detector = cut_model.detector
    photo = draw_photo(np.random.default_rng(4))
    before = detector.full_map(detector.score(photo), photo)
    photo[3:13, 5:15] = 255
    scores = detector.score(photo)
    full = detector.full_map(scores, photo)
    high = np.argwhere(full > before.max() + LOST / 2)
    assert full.max() == np.float32(scores.image_score)
    assert 50 <= len(high) <= 300 and high.max() < 20
    assert detector.geometry.window is not None
    judged = detector.geometry.window.slices(full.shape)
    np.testing.assert_allclose(full[judged], before[judged], atol=1e-4)


def test_a_program_without_torch_judges_the_same_part(cut_model: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    exported = export(cut_model, "onnx", tmp_path / "onnx")
    model = runpy.run_path(str(ROOT / "examples/judge_without_torch.py"))["Model"](exported.path)
    detector = cut_model.detector
    for bad in (False, True):
        photo = draw_photo(np.random.default_rng(5), bad=bad)
        cv2.imwrite(str(tmp_path / "photo.png"), photo[:, :, ::-1])
        verdict, anomaly_map = model.judge(str(tmp_path / "photo.png"))
        here = detector.score(photo)
        assert verdict["image_score"] == pytest.approx(here.image_score, rel=1e-3, abs=1e-3)
        apart = np.abs(anomaly_map - detector.full_map(here, photo))
        assert detector.geometry.window is not None
        assert np.median(apart[detector.geometry.window.slices(apart.shape)]) < 0.1
        assert verdict["threshold"] == detector.calibration.threshold
    for size in ((1, 1), (2, 900), (96, 128)):
        assert model.part(np.zeros((*size, 3), np.uint8)) == detector.geometry.window.slices(size)


def test_region_rules_are_drawn_on_whole_photos(cut_model: Bundle) -> None:
    detector = cut_model.detector
    photo = draw_photo(np.random.default_rng(6), bad=True)
    scores = detector.score(photo)

    def judged(rules: RegionRules) -> float:
        policy = replace(detector.policy, rules=rules)
        return replace(detector, policy=policy).judged_score(scores, photo.shape[:2])

    everywhere, without_spot, nowhere = (np.ones(photo.shape[:2], bool) for _ in range(3))
    without_spot[SPOT[0] - 16 : SPOT[0] + 16, SPOT[1] - 16 : SPOT[1] + 16] = False
    nowhere[detector.geometry.window.slices(nowhere.shape)] = False
    assert judged(RegionRules(everywhere)) == pytest.approx(scores.image_score)
    assert judged(RegionRules(without_spot)) < scores.image_score
    assert judged(RegionRules(smallest_area=20.0, photo_size=photo.shape[:2])) <= scores.image_score
    for rules in (RegionRules(nowhere), RegionRules(smallest_area=photo[..., 0].size - 1.0)):
        with pytest.raises(ImageError, match=r"data\.cut_out=false"):
            judged(rules)


def test_rules_fit_photos_of_any_size_of_their_shape() -> None:
    thin = Window(0.45, 0.0, 0.55, 1.0, 1.0)
    rules = RegionRules(np.ones((256, 320), bool))
    for side in range(60, 400, 7):
        size = (side, round(side * 320 / 256))
        assert rules.score(np.ones((4, 20), np.float32), size, 0.01, thin) == 1.0
    with pytest.raises(ImageError, match="400 x 400 px"):
        rules.score(np.ones((4, 20), np.float32), (400, 400), 0.01, thin)


def test_a_tray_that_is_never_plain_is_not_cut_off() -> None:
    rng = np.random.default_rng(7)
    photos = [plate(rng) for _ in range(24)]
    for photo in photos:
        row, column = int(rng.integers(10, 180)), int(rng.integers(10, 60))
        cv2.circle(photo, (column, row), 6, (230, 230, 230), -1)
    assert Window.learn([shrunk(photo) for photo in photos]) is None


@pytest.mark.parametrize(
    "window",
    [
        {"top": 0.5, "left": 0, "bottom": 0.5, "right": 1, "tray": 1},
        {"top": -1, "left": 0, "bottom": 0.5, "right": 1, "tray": 1},
        {"top": 0, "left": 0, "bottom": 2, "right": 1, "tray": 1},
        {"top": 0, "left": 0, "bottom": 1, "right": float("nan"), "tray": 1},
        {"top": 0, "left": 0, "bottom": 1, "right": 1, "tray": -1},
        {"top": 0, "left": 0, "bottom": 1, "right": 1},
        {"top": "a", "left": 0, "bottom": 1, "right": 1, "tray": 1},
        [0, 0, 1, 1, 1],
    ],
)
def test_a_window_that_is_no_part_of_a_photo_is_refused(cut_model: Bundle, tmp_path: Path, window) -> None:
    import json
    import shutil

    from anomaly.bundle import _checksum

    model = Path(shutil.copytree(cut_model.path, tmp_path / "model"))
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["geometry"]["window"] = window
    manifest["checksum"] = _checksum(manifest)
    (model / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError):
        read_bundle(model)
