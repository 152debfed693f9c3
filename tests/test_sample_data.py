"""The committed sample line: complete, exactly labelled, drawn by its generator, and no give-away."""

import csv
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

LINE = Path(__file__).parents[1] / "sample_data"
sys.path.insert(0, str(LINE))
import generate  # noqa: E402

PRODUCTS = ("bracket", "twill")
COLUMNS = ["path", "split", "label", "mask", "group", "defect_type", "size_px", "contrast"]

each_product = pytest.mark.parametrize("product", PRODUCTS)


@cache
def manifest(product):
    with open(LINE / product / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


@cache
def photo(product, path):
    return cv2.imread(str(LINE / product / path))


@cache
def mask(product, path):
    return cv2.imread(str(LINE / product / path), cv2.IMREAD_UNCHANGED)


def rows(product, **wanted):
    return [row for row in manifest(product) if all(row[key] == value for key, value in wanted.items())]


def named(product, name):
    return next(photo for photo in generate.photos(product) if photo.name == name)


@each_product
def test_manifest_lists_every_file_once(product):
    listed = [row["path"] for row in manifest(product)] + [
        row["mask"] for row in manifest(product) if row["mask"]
    ]
    there = [
        p.relative_to(LINE / product).as_posix() for p in (LINE / product).rglob("*.*") if p.suffix != ".csv"
    ]
    assert list(manifest(product)[0]) == COLUMNS
    assert sorted(listed) == sorted(there)


@each_product
def test_manifest_agrees_with_the_folders(product):
    for row in manifest(product):
        split, folder, name = row["path"].split("/")
        assert row["split"] == split
        assert row["label"] == ("normal" if folder == "good" else "anomalous")
        if folder == "good":
            assert not (row["mask"] or row["defect_type"] or row["size_px"] or row["contrast"])
        else:
            assert row["defect_type"] == folder
            assert row["mask"] == f"ground_truth/{folder}/{Path(name).stem}_mask.png"


@each_product
def test_enough_photos_lots_and_defects(product):
    train = Counter(row["group"] for row in rows(product, split="train"))
    good = Counter(row["group"] for row in rows(product, split="test", label="normal"))
    flawed = Counter(row["defect_type"] for row in rows(product, label="anomalous"))
    assert {row["label"] for row in rows(product, split="train")} == {"normal"}
    assert train.total() >= 60 and len(train) >= 3
    assert good.total() >= 20 and len(good.keys() - train.keys()) == 1
    assert len(flawed) >= 5 and min(flawed.values()) >= 8


def test_small_enough_to_commit():
    assert sum(p.stat().st_size for p in LINE.rglob("*") if p.is_file()) <= 15e6


@each_product
def test_no_two_photos_are_the_same(product):
    contents = [(LINE / product / row["path"]).read_bytes() for row in manifest(product)]
    assert len(set(contents)) == len(contents)


@each_product
def test_masks_fit_their_photos_and_grades(product):
    for row in rows(product, label="anomalous"):
        image, truth = photo(product, row["path"]), mask(product, row["mask"])
        assert truth.shape == image.shape[:2]
        assert set(np.unique(truth)) == {0, 255}
        r, c = np.nonzero(truth)
        assert (
            max(np.ptp(r), np.ptp(c)) + 0.5 <= float(row["size_px"]) <= np.hypot(np.ptp(r), np.ptp(c)) + 1.5
        )
        assert float(row["contrast"]) > 0


@each_product
def test_defects_are_graded_from_faint_to_plain(product):
    for defect_type in generate.FLAWS[product]:
        contrast = [float(row["contrast"]) for row in rows(product, defect_type=defect_type)]
        assert max(contrast) > 1.5 * min(contrast), defect_type


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("bracket", "train/good/000"),
        ("bracket", "test/good/004"),
        ("bracket", "test/scratch/006"),
        ("bracket", "test/hole/009"),
        ("twill", "train/good/079"),
        ("twill", "test/tear/005"),
        ("twill", "test/misweave/000"),
    ],
)
def test_generator_redraws_the_committed_photo(product, name):
    image, truth, contrast = generate.draw(named(product, name))
    row = next(row for row in manifest(product) if row["path"] == f"{name}.jpg")
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, generate.JPEG_QUALITY])[1]
    redrawn = cv2.imdecode(encoded, cv2.IMREAD_COLOR).astype(float)
    assert np.abs(redrawn - photo(product, row["path"])).mean() <= 2
    if row["mask"]:
        assert np.mean(truth != mask(product, row["mask"])) < 1e-3
        assert contrast == pytest.approx(float(row["contrast"]), rel=0.05)


def test_another_seed_is_another_line():
    one = named("twill", "test/good/000")
    first, second = generate.draw(one)[0], generate.draw(one, seed=generate.SEED + 1)[0]
    assert np.abs(first.astype(float) - second).mean() > 5


@pytest.mark.parametrize(("product", "name"), [("bracket", "test/dent/006"), ("twill", "test/slub/003")])
def test_outside_its_mask_a_defect_changes_nothing_visible(product, name):
    """The same photo without its defect: same noise, so that all of the difference is the defect."""
    flawed, truth, contrast = generate.draw(named(product, name))
    clean, _, _ = generate.draw(replace(named(product, name), defect_type=""))
    change = np.abs(flawed.astype(float) - clean).mean(axis=2)
    assert change[truth > 0].mean() == pytest.approx(contrast, rel=0.1)
    assert change[truth == 0].mean() < 0.02 * contrast
    assert (change[truth == 0] > 3 * generate.VISIBLE).mean() < 1e-3


@each_product
@pytest.mark.parametrize("reduce", [np.max, np.mean])
def test_difference_to_the_mean_photo_is_not_enough(product, reduce):
    train = [photo(product, row["path"]) for row in rows(product, split="train")]
    expected = np.mean(train, axis=0, dtype=np.float32)

    def score(row):
        difference = np.abs(photo(product, row["path"]) - expected).mean(axis=2)
        return reduce(cv2.GaussianBlur(difference, (0, 0), 3))

    good = [score(row) for row in rows(product, split="test", label="normal")]
    auroc = {}
    for defect_type in generate.FLAWS[product]:
        flawed = [score(row) for row in rows(product, defect_type=defect_type)]
        auroc[defect_type] = roc_auc_score([0] * len(good) + [1] * len(flawed), good + flawed)
    assert sum(value < 0.7 for value in auroc.values()) >= 3, auroc


def test_a_product_at_any_angle_is_drawn_where_it_is_asked_for():
    assert generate.LINE == PRODUCTS
    first = next(iter(generate.photos("turned_bracket")))
    image, mask, _ = generate.draw(first)
    assert image.shape == (320, 320, 3) and not mask.any()
    upright = generate.draw(named("bracket", first.name))[0]
    assert upright.shape == (256, 320, 3)
