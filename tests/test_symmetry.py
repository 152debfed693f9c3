"""Which copies of good photos are learnt from, and how many."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import QUICK

from anomaly.config import RunConfig
from anomaly.fitting.run import fit
from anomaly.fitting.symmetry import MOST, ROUNDS, SYMMETRIES, copies, symmetries
from anomaly.inspection.writer import model_facts

SIDE = 96


def draw(rng: np.random.Generator, width: int = SIDE) -> np.ndarray:
    """A pattern that looks like none of its copies, in a light that falls somewhat differently each time."""
    pattern = np.random.default_rng(1).normal(size=(SIDE, width)).astype(np.float32)
    light = rng.normal(size=(SIDE, width)).astype(np.float32)
    grey = 128 + 150 * cv2.GaussianBlur(pattern, (0, 0), 3) + 60 * cv2.GaussianBlur(light, (0, 0), 6)
    return np.dstack([np.clip(grey, 0, 255).astype(np.uint8)] * 3)


def encoder() -> SimpleNamespace:
    """Patches are their own pixels."""

    def raw(photo: np.ndarray) -> torch.Tensor:
        grey = torch.from_numpy(photo[:, :, 0].copy()).float()
        return grey.unfold(0, 16, 16).unfold(1, 16, 16).permute(2, 3, 0, 1).flatten(0, 1)

    return SimpleNamespace(
        raw_features=raw, parts=lambda raw: (raw.float(), raw), embed=lambda values: values
    )


def found(photos: list[np.ndarray]) -> list[str]:
    known = encoder()
    return [one.name for one in symmetries(known, [(photo, known.raw_features(photo)) for photo in photos])]


def with_some(copy: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> list[np.ndarray]:
    """Photos of which every other one is copied."""
    rng = np.random.default_rng(3)
    photos = [draw(rng) for _ in range(44)]
    return [np.ascontiguousarray(copy(p, rng)) if rng.random() < 0.5 else p for p in photos]


def test_a_product_that_always_lies_alike_has_no_symmetry() -> None:
    assert found(with_some(lambda photo, rng: photo)) == []


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("mirrored left to right", lambda photo, rng: photo[:, ::-1]),
        ("mirrored top to bottom", lambda photo, rng: photo[::-1]),
        ("turned upside down", lambda photo, rng: photo[::-1, ::-1]),
        ("turned by a quarter", lambda photo, rng: np.rot90(photo, 1 + 2 * int(rng.integers(2)))),
    ],
)
def test_the_way_in_which_good_photos_vary_is_found(
    name: str, copy: Callable[[np.ndarray, np.random.Generator], np.ndarray]
) -> None:
    assert name in found(with_some(copy))


def test_three_photos_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    assert found([draw(rng) for _ in range(3)]) == []


def test_only_square_photos_are_turned_by_a_quarter() -> None:
    rng = np.random.default_rng(0)
    photos = [draw(rng, 128) if rng.random() < 0.5 else np.rot90(draw(rng, 128), 2) for _ in range(20)]
    assert "turned by a quarter" not in found([np.ascontiguousarray(photo) for photo in photos])


def test_every_photo_is_copied_by_each_symmetry_in_all_its_ways() -> None:
    rng = np.random.default_rng(0)
    photos = [draw(rng, 128), draw(rng, 64), draw(rng, 96)]
    made = copies([s for s in SYMMETRIES if not s.square], photos)
    assert [copy.shape for _, copy in made] == [photo.shape for photo in photos] * (3 + ROUNDS)
    assert made[0][0] == 0 and np.array_equal(made[0][1], photos[0][:, ::-1])


def test_copies_of_one_symmetry_differ() -> None:
    photo = draw(np.random.default_rng(0))
    for symmetry in SYMMETRIES:
        made = [copy.tobytes() for _, copy in copies([symmetry], [photo])]
        assert len(set(made)) == len(made) == symmetry.ways
        assert photo.tobytes() not in made


@pytest.mark.parametrize("count", [100, 250, MOST - 1, MOST, MOST + 5])
def test_there_are_never_too_many(count: int) -> None:
    photos = [np.full((32, 32, 3), index % 200, np.uint8) for index in range(count)]
    made = copies(SYMMETRIES[:3], photos)
    assert len(made) == min(3 * count, max(0, MOST - count))
    assert np.ptp(np.bincount([index for index, _ in made], minlength=count)) <= 1


def test_nothing_found_nothing_copied() -> None:
    assert copies([], [draw(np.random.default_rng(0))]) == []


def test_a_part_that_good_photos_show_mirrored_is_no_anomaly(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    good = tmp_path / "good"
    good.mkdir()
    for index in range(45):
        photo = draw(rng)
        cv2.imwrite(str(good / f"{index:02}.png"), photo[:, ::-1] if index % 5 == 0 else photo)
    told: list[str] = []
    scores = {}
    for choice in ("auto", "none"):
        config = RunConfig.load(None, [*QUICK, f"data.symmetries={choice}"])
        fitted = fit(good, tmp_path / choice, config, say=told.append)
        facts = model_facts(fitted.bundle)["copies"]
        assert facts == ("mirrored left to right" if choice == "auto" else "none")
        new = fitted.bundle.detector.score(np.ascontiguousarray(draw(rng)[:, ::-1]))
        scores[choice] = new.branch_scores["embedding"]
    assert scores["auto"] < scores["none"]
    assert sum("show the product mirrored left to right:" in sentence for sentence in told) == 1
