"""A product at any angle on a tray: found on every photo, turned upright, cut out."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import QUICK

from anomaly.bundle import read_bundle
from anomaly.config import RunConfig
from anomaly.data.geometry import Geometry
from anomaly.data.registration import Registration, shrunk
from anomaly.data.window import Window
from anomaly.detector import LOST, Scores, placed
from anomaly.errors import ConfigError
from anomaly.export.verify import BranchScorer
from anomaly.fitting.photos import read_photos
from anomaly.fitting.run import Fitted, fit
from anomaly.inspection.stream import decide
from anomaly.inspection.writer import UPRIGHT, model_facts
from anomaly.models.training import Silent
from anomaly.records import Sample

ON_A_TRAY = [*QUICK, "data.any_angle=auto", "data.cut_out=true"]
SIDE = 240
HOLE = (35.0, 8.0)
"""Where the part has its hole, (x, y) from its middle."""


def part(rng: np.random.Generator, angle: float, shift: tuple[float, float], scale: int = 1) -> np.ndarray:
    """An angle plate with a hole on a grey tray, (SIDE, SIDE, 3) times `scale`; the lamp is at the left."""
    side = SIDE * scale
    y, x = (np.mgrid[:side, :side].astype(np.float32) + 0.5) / scale - 0.5
    x, y = x - (SIDE - 1) / 2 - shift[0], y - (SIDE - 1) / 2 - shift[1]
    cosine, sine = math.cos(angle), math.sin(angle)
    u, v = cosine * x + sine * y, -sine * x + cosine * y
    inside = (abs(u) < 60) & (abs(v) < 25) & ~((u > 10) & (v < -5))
    inside &= np.hypot(u - HOLE[0], v - HOLE[1]) > 7
    light = 1 + 0.05 * cv2.Sobel(cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 2), cv2.CV_32F, 1, 0)
    photo = np.where(inside, 190, 80) * light
    photo = cv2.GaussianBlur(photo, (0, 0), 0.8 * scale) + rng.normal(0, 3, photo.shape)
    return np.dstack([np.clip(photo, 0, 255).astype(np.uint8)] * 3)


def thrown(rng: np.random.Generator) -> tuple[float, tuple[float, float]]:
    return float(rng.uniform(0, 2 * math.pi)), (float(rng.uniform(-15, 15)), float(rng.uniform(-15, 15)))


@pytest.fixture(scope="module")
def known() -> Registration:
    rng = np.random.default_rng(0)
    found = Registration.learn([shrunk(part(rng, *thrown(rng))) for _ in range(24)])
    assert found is not None
    return found


def samples(folder: Path) -> list[Sample]:
    return [Sample(path, "train", "normal") for path in sorted(folder.iterdir())]


def blank_one(sample: Sample) -> None:
    """An empty tray in the place of a photo."""
    tray = np.full((SIDE, SIDE, 3), 80, np.uint8)
    cv2.imwrite(str(sample.path), tray + np.random.default_rng(18).integers(0, 5, tray.shape, np.uint8))


def hole_on_photo(angle: float, shift: tuple[float, float]) -> np.ndarray:
    """(x, y) of the hole's middle."""
    cosine, sine = math.cos(angle), math.sin(angle)
    turned = np.array([cosine * HOLE[0] - sine * HOLE[1], sine * HOLE[0] + cosine * HOLE[1]])
    return turned + (SIDE - 1) / 2 + shift


def on_working(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.linalg.solve(matrix[:, :2], point - matrix[:, 2])


def test_each_point_of_the_product_comes_to_the_same_place(known: Registration) -> None:
    rng = np.random.default_rng(1)
    size = Geometry.choose([(SIDE, SIDE)], "auto", known).working_size((SIDE, SIDE))
    poses = [thrown(rng) for _ in range(20)]
    places = [known.place(part(rng, *pose), size) for pose in poses]
    assert all(place.found for place in places)
    holes = [on_working(p.matrix, hole_on_photo(*pose)) for p, pose in zip(places, poses, strict=True)]
    px = np.linalg.norm(np.array(holes) - np.median(holes, axis=0), axis=1) * SIDE * known.size[1] / size[1]
    assert px.max() < 1.0
    assert all(-16 < x < size[1] + 16 and -16 < y < size[0] + 16 for x, y in holes)


def test_the_product_lies_along_the_working_photo_and_fills_it(known: Registration) -> None:
    height, width = known.size
    long, short = max(height, width), min(height, width)
    assert 120 / SIDE < long < 1.3 * 120 / SIDE
    assert 50 / SIDE < short < 1.6 * 50 / SIDE


def test_a_photo_of_another_size_is_cut_alike(known: Registration) -> None:
    pose = thrown(np.random.default_rng(2))
    geometry = Geometry.choose([(SIDE, SIDE)], 128, known)
    one, other = (geometry.working(part(np.random.default_rng(3), *pose, scale)) for scale in (1, 3))
    assert one.shape == other.shape == (*geometry.working_size((SIDE, SIDE)), 3)
    assert np.abs(one.astype(float) - other).mean() < 8


def test_what_lights_up_on_the_working_photo_lights_up_on_the_photo(known: Registration) -> None:
    rng = np.random.default_rng(4)
    angle, shift = thrown(rng)
    photo = part(rng, angle, shift)
    geometry = Geometry.choose([photo.shape[:2]], "auto", known)
    place = geometry.view(photo).place
    assert place is not None
    height, width = geometry.working_size(photo.shape[:2])
    patches = np.full((height // 16, width // 16), -1, np.float32)
    x, y = on_working(place.matrix, hole_on_photo(angle, shift))
    patches[int(y) // 16, int(x) // 16] = 9
    full = geometry.to_photo(patches, photo.shape[:2], place)
    row, column = np.unravel_index(full.argmax(), full.shape)
    assert full.shape == photo.shape[:2]
    assert np.hypot(*(hole_on_photo(angle, shift) - (column, row))) < 12
    assert full[0, 0] == full.min()


def alike(rng: np.random.Generator) -> np.ndarray:
    return part(rng, rng.uniform(-0.15, 0.15), (rng.uniform(-8, 8), 0))


def round_one(rng: np.random.Generator) -> np.ndarray:
    photo = np.full((SIDE, SIDE, 3), 80.0)
    cv2.circle(photo, tuple(rng.integers(100, 140, 2).tolist()), 60, (190, 190, 190), -1)
    return np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)


def texture(rng: np.random.Generator) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)).astype(np.float32), (0, 0), 2)
    return np.dstack([np.clip(128 + 150 * noise, 0, 255).astype(np.uint8)] * 3)


def never_the_same(rng: np.random.Generator) -> np.ndarray:
    photo = np.full((SIDE, SIDE, 3), 80.0)
    corners = 120 + rng.uniform(30, 90, (7, 1)) * np.column_stack(
        [np.cos(np.arange(7) * 2 * np.pi / 7), np.sin(np.arange(7) * 2 * np.pi / 7)]
    )
    cv2.fillPoly(photo, [corners.astype(np.int32)], (190, 190, 190))
    return np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("draw", [alike, round_one, texture, never_the_same])
def test_what_is_not_turned_is_not_looked_for(draw) -> None:
    rng = np.random.default_rng(5)
    assert Registration.learn([shrunk(draw(rng)) for _ in range(24)]) is None


def test_few_photos_do_not_tell() -> None:
    rng = np.random.default_rng(6)
    photos = [shrunk(part(rng, *thrown(rng))) for _ in range(7)]
    assert Registration.learn(photos) is None


def test_the_same_photo_lies_in_the_same_place(known: Registration) -> None:
    rng = np.random.default_rng(7)
    photo = part(rng, *thrown(rng))
    first, again = (known.place(photo, (96, 192)) for _ in range(2))
    assert np.array_equal(first.matrix, again.matrix)


@pytest.mark.parametrize(
    "photo",
    [
        np.full((SIDE, SIDE, 3), 80, np.uint8),
        texture(np.random.default_rng(8)),
        round_one(np.random.default_rng(9)),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((5, 900, 3), np.uint8),
    ],
    ids=["empty tray", "texture", "another part", "one pixel", "strip"],
)
def test_where_the_product_is_not_nothing_passes(known: Registration, photo: np.ndarray) -> None:
    geometry = Geometry.choose([(SIDE, SIDE)], 128, known)
    view = geometry.view(photo)
    assert view.place is not None and not view.place.found
    assert view.photo.shape[:2] == geometry.working_size(photo.shape[:2])
    low = Scores(-1.0, np.full((4, 8), -1, np.float32), {})
    scores = placed(low, view.place)
    assert scores.image_score == LOST - 1 and (scores.anomaly_map == LOST - 1).all()


@pytest.mark.parametrize("grey", [30, 190])
def test_something_beside_the_product_does_not_pass(known: Registration, grey: int) -> None:
    photo = part(np.random.default_rng(15), 0.5, (0, 0))
    geometry = Geometry.choose([(SIDE, SIDE)], 128, known)
    clean = geometry.view(photo).place
    cv2.circle(photo, (25, 215), 5, (grey, grey, grey), -1)
    place = geometry.view(photo).place
    assert clean is not None and clean.as_learnt
    assert place is not None and place.found and place.beside is not None
    assert place.beside.shape == shrunk(photo).shape[:2]
    assert place.beside[215 * len(place.beside) // SIDE].any()
    assert placed(Scores(0.0, np.zeros((4, 8), np.float32), {}), place).image_score == LOST


@pytest.mark.parametrize(
    "arrays",
    [
        {"edges": np.zeros((40, 41)), "mask": np.ones((40, 41))},
        {"edges": np.zeros((40, 40)), "mask": np.ones((39, 39))},
        {"edges": np.zeros((2, 2)), "mask": np.ones((2, 2))},
        {"edges": np.zeros((5000, 5000)), "mask": np.ones((5000, 5000))},
        {"edges": np.zeros((40, 40)), "mask": np.zeros((40, 40)), "tray": np.ones(1)},
        {"edges": np.zeros((40, 40)), "mask": np.ones((40, 40)), "tray": np.ones(2)},
        {"edges": np.zeros((40, 40)), "mask": np.ones((40, 40)), "tray": -np.ones(1)},
        {"edges": np.full((40, 40), 1e30), "mask": np.ones((40, 40))},
        {"edges": np.zeros(40), "mask": np.zeros(40)},
    ],
)
def test_arrays_that_are_no_registration_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="registration"):
        Registration.restored({"tray": np.ones(1), **arrays})


def test_arrays_are_what_it_is_restored_from(known: Registration) -> None:
    again = Registration.restored(known.arrays())
    photo = part(np.random.default_rng(14), 1.0, (5, 5))
    assert np.array_equal(again.place(photo, (96, 192)).matrix, known.place(photo, (96, 192)).matrix)
    assert again.tray == pytest.approx(known.tray, rel=1e-6)


@pytest.fixture(scope="module")
def thrown_product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-five good photos of the part at any angle."""
    root = tmp_path_factory.mktemp("thrown")
    rng = np.random.default_rng(10)
    for index in range(45):
        cv2.imwrite(str(root / f"{index:02}.png"), part(rng, *thrown(rng)))
    return root


@pytest.fixture(scope="module")
def upright(thrown_product: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, list[str]]:
    """A model of it, one of whose training photos shows an empty tray; and what its fit said."""
    root = tmp_path_factory.mktemp("upright")
    told: list[str] = []
    config = RunConfig.load(None, ON_A_TRAY)
    photos = Path(shutil.copytree(thrown_product, root / "photos"))
    blank_one(read_photos(config, samples(photos), Silent()).train[3])
    return fit(photos, root / "model", config, say=told.append), told


def test_a_fit_turns_photos_and_keeps_how(upright: tuple[Fitted, list[str]]) -> None:
    fitted, told = upright
    assert fitted.result.cut_out == "upright" and not fitted.result.any_angle
    assert any("turned upright" in sentence for sentence in told)
    assert any("left out" in sentence and "not found" in sentence for sentence in told)
    assert "coarse" in fitted.bundle.detector.scorers
    facts = model_facts(fitted.bundle)
    assert (facts["at_any_angle"], facts["judged"]) == ("yes", UPRIGHT)
    rng = np.random.default_rng(11)
    angle, shift = thrown(rng)
    good = part(rng, angle, shift)
    bad = good.copy()
    x, y = hole_on_photo(angle, shift).round().astype(int).tolist()
    cv2.circle(bad, (x, y), 9, (190, 190, 190), -1)
    read = read_bundle(fitted.bundle.path).detector
    here, there = fitted.bundle.detector.score(bad), read.score(bad)
    assert here.image_score == there.image_score and there.place is not None
    assert there.image_score > read.score(good).image_score
    row, column = np.unravel_index(read.full_map(there, bad).argmax(), bad.shape[:2])
    assert math.hypot(row - y, column - x) < 20
    expected = read.expected(good)
    assert expected is not None and expected.shape == good.shape
    assert np.array_equal(expected[0], good[0]) and not np.array_equal(expected, good)
    tray = read.score(np.full((SIDE, SIDE, 3), 80, np.uint8))
    assert tray.image_score > read.calibration.threshold + LOST / 2
    verdict = decide(read, "tray", tray, read.full_map(tray, bad))
    assert (verdict.decision, verdict.remark) == ("anomalous", "the product was not found on the photo")
    assert decide(read, "bad", there, read.full_map(there, bad)).remark is None

    class Graph:
        """What an exported graph gives: what the encoder and the autoencoder make of a working photo."""

        def run(self, photos: np.ndarray) -> list[np.ndarray]:
            maps = read.encoder.maps(photos[0])
            return [
                maps[scorer.input].numpy()[None]
                if name != "reconstruction"
                else scorer.score(maps[scorer.input]).numpy()[None, None]
                for name, scorer in read.scorers.items()
            ]

    for photo in (good, bad, np.full((SIDE, SIDE, 3), 80, np.uint8)):
        exported, plain = BranchScorer(read, Graph())(photo), read.score(photo)
        assert exported.image_score == plain.image_score
        assert np.array_equal(read.full_map(exported, photo), read.full_map(plain, photo))


@pytest.mark.parametrize("held_out", [False, True])
def test_photos_without_the_product_are_never_learnt_from(
    thrown_product: Path, tmp_path: Path, held_out: bool
) -> None:
    """One calibration photo without it, and the threshold would promise less than it says."""
    config = RunConfig.load(None, ON_A_TRAY)
    photos = Path(shutil.copytree(thrown_product, tmp_path / "photos"))
    before = read_photos(config, samples(photos), Silent())
    blank_one(blank := (before.held_out if held_out else before.train)[3])
    read = read_photos(config, samples(photos), Silent())
    if held_out:
        assert read.geometry.cut is None and read.uncut is not None and not read.skipped
        assert read.held_out == before.held_out
    else:
        assert read.geometry.upright and read.uncut is None
        assert [*read.skipped.values()] == [f"{blank.path}: the product was not found on the photo"]
        assert blank not in read.train and read.held_out == before.held_out
    assert len(read.train) == len(read.train_photos)


@pytest.mark.parametrize("lamp", [0.2, -0.2])
def test_a_lamp_at_one_side_hides_no_product(known: Registration, lamp: float) -> None:
    rng = np.random.default_rng(16)
    ramp = (1 + lamp * np.linspace(-1, 1, SIDE))[None, :, None]
    for _ in range(5):
        photo = np.clip(part(rng, *thrown(rng)) * ramp, 0, 255).astype(np.uint8)
        assert known.place(photo, (96, 192)).as_learnt


def test_one_good_photo_with_something_beside_it_excuses_no_other() -> None:
    rng = np.random.default_rng(17)
    photos = [part(rng, *thrown(rng)) for _ in range(24)]
    clean = Registration.learn([shrunk(photo) for photo in photos])
    cv2.circle(photos[5], (25, 215), 7, (220, 220, 220), -1)
    dirty = Registration.learn([shrunk(photo) for photo in photos])
    assert clean is not None and dirty is not None
    assert dirty.tray < clean.tray + 2
    assert dirty.place(photos[5], (96, 192)).beside is not None


@pytest.mark.parametrize(("setting", "cut"), [("data.cut_out=false", None), ("data.any_angle=false", Window)])
def test_it_is_not_looked_for_where_the_configuration_says_so(
    thrown_product: Path, setting: str, cut: type | None
) -> None:
    config = RunConfig.load(None, [*QUICK, "data.any_angle=auto", "data.cut_out=true", setting])
    found = read_photos(config, samples(thrown_product), Silent()).geometry.cut
    assert found is None if cut is None else isinstance(found, cut)


def test_it_is_not_looked_for_where_it_is_often_not_there(thrown_product: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), alike(rng) if index else texture(rng))
        cv2.imwrite(str(tmp_path / f"empty{index}.png"), np.full((SIDE, SIDE, 3), 80, np.uint8))
    config = RunConfig.load(None, ON_A_TRAY)
    paths = [*sorted(thrown_product.iterdir()), *sorted(tmp_path.iterdir())]
    read = read_photos(config, [Sample(path, "train", "normal") for path in paths], Silent())
    assert read.geometry.cut is None
    assert len(read.train) + len(read.held_out) == len(paths)


def test_a_mask_is_cut_as_its_photo_is(thrown_product: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    angle, shift = thrown(rng)
    x, y = hole_on_photo(angle, shift).round().astype(int).tolist()
    photo, mask = part(rng, angle, shift), np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(photo, (x, y), 9, (250, 20, 20), -1)
    cv2.circle(mask, (x, y), 9, 255, -1)
    cv2.imwrite(str(tmp_path / "bad.png"), photo[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    good = samples(thrown_product)
    bad = Sample(tmp_path / "bad.png", "train", "anomalous", mask=tmp_path / "mask.png")
    config = RunConfig.load(
        None, [*QUICK, "data.any_angle=auto", "data.cut_out=true", "contrastive.supervised_weight=0.5"]
    )
    [(_, (working, where))] = read_photos(config, [*good, bad], Silent()).defects
    beside = Sample(tmp_path / "bad.png", "train", "anomalous", mask=tmp_path / "beside.png")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:5, :5] = 255
    cv2.imwrite(str(tmp_path / "beside.png"), mask)
    left_out = read_photos(config, [*good, beside], Silent())
    assert not left_out.defects and "beside what is cut out" in left_out.skipped[str(beside.path)]
    red = working[:, :, 0].astype(int) - working[:, :, 1] > 100
    assert where.shape == working.shape[:2]
    assert (red & ~where).sum() == 0 and where.sum() < 2 * red.sum()


def test_areas_drawn_on_photos_are_refused(upright: tuple[Fitted, list[str]]) -> None:
    from anomaly.policy.regions import RegionRules
    from anomaly.quality.thresholds import Rule
    from anomaly.tuning.tune import tune
    from anomaly.tuning.tuned import Asked

    bundle = upright[0].bundle
    with pytest.raises(ConfigError, match=r"data\.cut_out=false"):
        tune(bundle, Asked(Rule(max_overkill=0.1), RegionRules(smallest_area=9)))
