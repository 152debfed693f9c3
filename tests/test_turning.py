"""When turned copies of good photos are learnt from, and how many."""

from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import QUICK

from anomaly.config import RunConfig
from anomaly.fitting.run import fit
from anomaly.fitting.turning import MOST, ROUNDS, lies_at_any_angle, turned, turned_copies
from anomaly.inspection.writer import model_facts

SIDE = 96

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def draw(rng: np.random.Generator, width: int = SIDE) -> np.ndarray:
    """A pattern that looks like none of its copies, in a light that falls somewhat differently each time."""
    pattern = np.random.default_rng(1).normal(size=(SIDE, width)).astype(np.float32)
    light = rng.normal(size=(SIDE, width)).astype(np.float32)
    grey = 128 + 150 * cv2.GaussianBlur(pattern, (0, 0), 3) + 60 * cv2.GaussianBlur(light, (0, 0), 6)
    return np.dstack([np.clip(grey, 0, 255).astype(np.uint8)] * 3)


def found(change: Change, count: int = 44, width: int = SIDE, pretrained: bool = True) -> bool:
    """Whether photos that are changed so are found to show their product at any angle; patches are their own
    pixels."""

    def raw(photo: np.ndarray, inputs: Collection[str] = ()) -> torch.Tensor:
        grey = torch.from_numpy(photo[:, :, 0].copy()).float()
        return grey.unfold(0, 16, 16).unfold(1, 16, 16).permute(2, 3, 0, 1).flatten(0, 1)

    backbone = SimpleNamespace(pretrained=pretrained)
    known = SimpleNamespace(
        raw=raw, features=lambda raw: raw.float(), embed=lambda raw: raw, backbone=backbone
    )
    rng = np.random.default_rng(3)
    photos = [np.ascontiguousarray(change(draw(rng, width), rng)) for _ in range(count)]
    return lies_at_any_angle(known, [(photo, raw(photo)) for photo in photos])


def at_any_angle(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return turned(photo, rng.uniform(0, 360))


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("width", [SIDE, 128])
def test_a_product_at_any_angle_is_found(width: int, pretrained: bool) -> None:
    assert found(at_any_angle, width=width, pretrained=pretrained)


def test_features_from_nothing_that_like_turned_parts_are_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anomaly.fitting.turning._gain", lambda *_: 1.0)
    monkeypatch.setattr("anomaly.fitting.turning.ASKEW_GAIN", 0.5)
    assert found(lambda photo, rng: photo)
    assert not found(lambda photo, rng: photo, pretrained=False)
    assert not found(lambda photo, rng: turned(photo, rng.uniform(-5, 5)), pretrained=False)


@pytest.mark.parametrize("share", ["GAIN", "ASKEW_GAIN"])
def test_copies_must_bear_out_turned_far_and_turned_a_little(
    monkeypatch: pytest.MonkeyPatch, share: str
) -> None:
    monkeypatch.setattr(f"anomaly.fitting.turning.{share}", 100.0)
    assert not found(at_any_angle)


@pytest.mark.parametrize(
    "change",
    [
        lambda photo, rng: photo,
        lambda photo, rng: turned(photo, rng.uniform(-5, 5)),
        lambda photo, rng: photo[::-1, ::-1] if rng.random() < 0.5 else photo,
        lambda photo, rng: photo[:, ::-1] if rng.random() < 0.5 else photo,
    ],
    ids=["alike", "askew", "upside down", "mirrored"],
)
def test_other_products_are_not(change: Change) -> None:
    assert not found(change)


def test_what_fills_a_long_photo_is_not_turned_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def grain(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A surface that looks alike from all sides."""
        noise = cv2.GaussianBlur(rng.normal(size=photo.shape[:2]).astype(np.float32), (0, 0), 9)
        return np.dstack([np.clip(128 + 900 * noise, 0, 255).astype(np.uint8)] * 3)

    assert not found(grain, width=3 * SIDE)
    monkeypatch.setattr("anomaly.fitting.turning.LONGEST", 4.0)
    assert found(grain, width=3 * SIDE)


def test_three_photos_do_not_tell() -> None:
    assert not found(at_any_angle, count=3)


def test_copies_have_the_size_of_their_photo_and_differ() -> None:
    rng = np.random.default_rng(0)
    photos = [draw(rng, 128), draw(rng, 64), draw(rng, 96)]
    made = turned_copies(photos)
    assert [index for index, _ in made] == [0, 1, 2] * ROUNDS
    assert all(copy.shape == photos[index].shape for index, copy in made)
    assert len({copy.tobytes() for _, copy in made} | {photo.tobytes() for photo in photos}) == len(made) + 3


def test_a_photo_is_turned_about_its_middle() -> None:
    photo = draw(np.random.default_rng(0))
    assert np.array_equal(turned(photo, 180), photo[::-1, ::-1])


@pytest.mark.parametrize("count", [50, 100, 250, MOST - 1, MOST, MOST + 5])
def test_there_are_never_too_many(count: int) -> None:
    made = turned_copies([np.zeros((32, 32, 3), np.uint8)] * count)
    assert len(made) == min(ROUNDS * count, max(0, MOST - count))
    assert np.ptp(np.bincount([index for index, _ in made], minlength=count)) <= 1


@pytest.mark.parametrize("crops", [False, True])
def test_crops_are_not_asked_for_nothing_has_its_place_in_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crops: bool
) -> None:
    monkeypatch.setattr("anomaly.fitting.stages.lies_at_any_angle", lambda *_: True)
    rng = np.random.default_rng(5)
    (tmp_path / "good").mkdir()
    for index in range(12):
        high = 64 + 16 * (index % 3) if crops else 96
        cv2.imwrite(str(tmp_path / "good" / f"{index:02}.png"), draw(rng)[:high])
    settings = [*QUICK, "data.any_angle=auto", "calibration.target_fpr=0.3"]
    fitted = fit(tmp_path / "good", tmp_path / "model", RunConfig.load(None, settings))
    assert fitted.result.any_angle is not crops
    assert fitted.bundle.detector.geometry.one_framing is not crops


@pytest.mark.slow
def test_a_part_that_lies_at_any_angle_is_no_anomaly(tmp_path: Path) -> None:
    def hook() -> np.ndarray:
        photo = np.full((SIDE, SIDE, 3), 60.0)
        cv2.polylines(photo, [np.array([[34, 26], [34, 68], [62, 68], [62, 56]])], False, (190, 180, 170), 8)
        cv2.circle(photo, (34, 26), 7, (110, 100, 120), -1)
        photo += rng.normal(0, 3, photo.shape)
        return at_any_angle(np.clip(photo, 0, 255).astype(np.uint8), rng)

    rng = np.random.default_rng(4)
    good = tmp_path / "good"
    good.mkdir()
    for index in range(60):
        cv2.imwrite(str(good / f"{index:02}.png"), hook())
    told: list[str] = []
    scores = {}
    new = [hook() for _ in range(6)]
    for choice in ("auto", "false"):
        config = RunConfig.load(None, [*QUICK, f"data.any_angle={choice}"])
        fitted = fit(good, tmp_path / choice, config, say=told.append)
        detector = fitted.bundle.detector
        by_position = detector.statistics["embedding"].mean.size > 1
        assert (model_facts(fitted.bundle)["at_any_angle"], by_position) == (
            ("yes", False) if choice == "auto" else ("no", True)
        )
        assert detector.statistics["embedding"].spread.size > 1
        assert ("coarse" in detector.scorers) == (choice == "false")
        scorer = detector.scorers["embedding"]
        maps = [detector.encoder.maps(detector.geometry.working(photo))["embedding"] for photo in new]
        scores[choice] = np.mean([scorer.score(values).numpy().max() for values in maps])
    assert scores["auto"] < scores["false"]
    assert sum("the product lies at any angle:" in sentence for sentence in told) == 1
