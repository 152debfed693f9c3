"""Photos held out for calibration: disjoint, whole groups, no copy on the other side, reproducible."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from anomaly.data.splits import split_calibration
from anomaly.errors import ConfigError, DataError
from anomaly.records import Sample


def photos(folder: Path, groups: list[str | None], contents: list[str] | None = None) -> list[Sample]:
    folder.mkdir(exist_ok=True)
    samples = []
    for i, group in enumerate(groups):
        path = folder / f"{i}.png"
        path.write_text(contents[i] if contents else f"photo {i}")
        samples.append(Sample(path, group=group))
    return samples


def names(samples: list[Sample]) -> list[str]:
    return [sample.path.name for sample in samples]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("lots", [[7, 3, 12, 5, 9, 4], [20, 20, 20], [1, 1, 40], [30, 10], [5] * 12])
def test_groups_stay_whole_and_the_share_is_the_closest_there_is(
    tmp_path: Path, lots: list[int], seed: int
) -> None:
    samples = photos(tmp_path, [f"lot{lot}" for lot, size in enumerate(lots) for _ in range(size)])
    train, calibration = split_calibration(samples, 0.2, seed)
    assert sorted(names(train) + names(calibration)) == sorted(names(samples))
    assert train and calibration
    assert not {sample.group for sample in train} & {sample.group for sample in calibration}
    target = round(0.2 * len(samples))
    choices = (choice for r in range(1, len(lots)) for choice in itertools.combinations(lots, r))
    assert abs(len(calibration) - target) == min(abs(sum(choice) - target) for choice in choices)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("group", [None, "one lot"])
def test_without_several_groups_photos_are_drawn_one_by_one(
    tmp_path: Path, group: str | None, seed: int
) -> None:
    train, calibration = split_calibration(photos(tmp_path, [group] * 30), 0.3, seed)
    assert len(calibration) == 9
    assert not set(names(train)) & set(names(calibration))


def test_photos_without_a_group_stand_beside_groups(tmp_path: Path) -> None:
    samples = photos(tmp_path, ["lot"] * 5 + [None] * 15)
    for seed in range(10):
        train, calibration = split_calibration(samples, 0.25, seed)
        assert len(calibration) == 5
        assert sum(sample.group == "lot" for sample in train) in (0, 5)


@pytest.mark.parametrize("seed", range(8))
def test_same_content_stays_on_one_side_and_ties_groups(tmp_path: Path, seed: int) -> None:
    contents = [f"part {i // 3}" for i in range(30)]
    train, calibration = split_calibration(photos(tmp_path, [None] * 30, contents), 0.2, seed)
    assert len(calibration) == 6
    assert not {s.path.read_text() for s in train} & {s.path.read_text() for s in calibration}
    groups: list[str | None] = [f"lot{i // 5}" for i in range(30)]
    contents = [f"part {i}" for i in range(30)]
    contents[7] = contents[21]  # lots 1 and 4 share a photo
    train, calibration = split_calibration(photos(tmp_path, groups, contents), 0.2, seed)
    sides = [{sample.group for sample in side} for side in (train, calibration)]
    assert not sides[0] & sides[1]
    assert any({"lot1", "lot4"} <= side for side in sides)


def test_order_and_place_do_not_matter_but_the_seed_does(tmp_path: Path) -> None:
    samples = photos(tmp_path / "here", [None] * 40)
    first = split_calibration(samples, 0.25, 3)
    assert split_calibration([samples[i] for i in np.random.default_rng(0).permutation(40)], 0.25, 3) == first
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = [Sample(tmp_path / "there" / sample.path.name) for sample in samples]
    assert [names(side) for side in split_calibration(moved, 0.25, 3)] == [names(side) for side in first]
    held_out = {tuple(names(split_calibration(samples, 0.25, seed)[1])) for seed in range(6)}
    assert len(held_out) == 6


def test_every_photo_is_held_out_equally_often(tmp_path: Path) -> None:
    samples = photos(tmp_path, [None] * 10)
    seen = dict.fromkeys(names(samples), 0)
    for seed in range(300):
        for name in names(split_calibration(samples, 0.3, seed)[1]):
            seen[name] += 1
    # binomial(300, .3) has a standard deviation of 7.9: five of them either way
    assert sum(seen.values()) == 900
    assert all(50 < count < 130 for count in seen.values())


def test_only_normal_training_photos_are_split(tmp_path: Path) -> None:
    samples = photos(tmp_path, [None] * 10)
    others = [Sample(tmp_path / "x.png", "test"), Sample(tmp_path / "y.png", "test", "anomalous")]
    train, calibration = split_calibration([*samples, *others], 0.2, 0)
    assert sorted(names(train) + names(calibration)) == sorted(names(samples))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_both_sides_get_a_photo_whatever_the_fraction(tmp_path: Path, fraction: float) -> None:
    train, calibration = split_calibration(photos(tmp_path, [None] * 5), fraction, 0)
    assert min(len(train), len(calibration)) == 1


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2 good training photos, got 1: add photos"):
        split_calibration(photos(tmp_path, [None]), 0.2, 0)
    with pytest.raises(DataError, match="got 0"):
        split_calibration([], 0.2, 0)
    with pytest.raises(DataError, match="all 4 good training photos are the same photo"):
        split_calibration(photos(tmp_path, [None] * 4, ["same"] * 4), 0.2, 0)
    with pytest.raises(DataError, match="groups are tied together"):
        split_calibration(photos(tmp_path, ["a", "a", "b", "b"], ["1", "2", "2", "3"]), 0.2, 0)
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="set it between 0 and 1"):
            split_calibration(photos(tmp_path, [None] * 4), fraction, 0)
