"""The highest score of good photos, where it stands out of the others."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import QUICK, draw_photo

from anomaly.config import RunConfig
from anomaly.fitting.oddities import odd_photos
from anomaly.fitting.run import fit
from anomaly.quality.outliers import LEVEL, MOST, _grubbs, standing_out


def test_grubbs_critical_values_are_those_of_the_tables() -> None:
    """One-sided, 5 %: 2.032 for 8, 2.557 for 20, 2.956 for 50 (Grubbs and Beck, Technometrics 14, 1972)."""
    for n, critical in ((8, 2.032), (20, 2.557), (50, 2.956)):
        rest = np.random.default_rng(n).normal(size=n - 1)
        low, high = 0.0, 100.0
        for _ in range(60):  # the highest value whose G is the critical one
            middle = (low + high) / 2
            values = np.append(rest, middle)
            above = (middle - values.mean()) / values.std(ddof=1) > critical
            low, high = (low, middle) if above else (middle, high)
        assert _grubbs(np.append(low, rest)) == pytest.approx(0.05, abs=5e-4)


@pytest.mark.parametrize("n", [20, 60])
def test_of_normal_logarithms_one_stands_out_as_seldom_as_promised(n: int) -> None:
    rng = np.random.default_rng(0)
    named = [bool(standing_out(np.exp(rng.normal(0, 0.3, n)))) for _ in range(2000)]
    assert np.mean(named) == pytest.approx(LEVEL, abs=0.02)


def test_several_that_hide_each_other_are_named_the_highest_first() -> None:
    scores = np.exp(np.random.default_rng(1).normal(0, 0.1, 40))
    scores[[5, 9, 30]] = 4.0, 4.2, 4.1
    assert standing_out(scores) == [9, 30, 5]
    scores[:10] = 9.0
    assert len(standing_out(scores)) <= MOST


def test_few_scores_and_like_scores_tell_nothing() -> None:
    assert standing_out([1.0] * 6 + [9.0]) == []
    assert standing_out([1.0] * 20) == []


def test_what_has_no_logarithm_is_asked_as_it_is() -> None:
    spread = np.linspace(-1, 0.5, 19)
    assert standing_out([*spread, 200.0]) == [19]
    assert standing_out([*spread, 0.6]) == []


@pytest.mark.parametrize(("bad", "where"), [(7, "calibration"), (2, "training")])
def test_a_fit_names_the_photos_to_look_at(tmp_path: Path, bad: int, where: str) -> None:
    rng = np.random.default_rng(2)
    (tmp_path / "good").mkdir()
    for i in range(44):
        photo = draw_photo(rng)
        if i == bad:
            photo[30:60, 40:80] = (250, 20, 250)
        cv2.imwrite(str(tmp_path / f"good/{i:02}.png"), photo)
    told: list[str] = []
    config = RunConfig.load(None, [*QUICK, "seed=1"])
    fit(tmp_path / "good", tmp_path / "model", config, say=told.append)
    named = [line for line in told if line.startswith("look at ")]
    assert any(
        f"{bad:02}.png" in line.partition(":")[0] and f"of the {where} photos" in line for line in named
    )


def test_photos_that_lie_far_from_the_others_are_odd_and_good_ones_are_not() -> None:
    rng = np.random.default_rng(3)
    maps = [torch.from_numpy(rng.normal(size=(6, 8, 8)).astype(np.float32)) for _ in range(40)]
    assert odd_photos(maps, 0.05, seed=0) == []
    maps[11][:, 2, 3:6] += 20
    maps[25][:, 4, 4] += 40
    assert odd_photos(maps, 0.05, seed=0) == [11, 25] == odd_photos(maps, 0.05, seed=0)
    assert odd_photos(maps[:1], 0.05, seed=0) == odd_photos(maps[:6], 0.05, seed=0) == []
