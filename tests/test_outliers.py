"""The highest score of good photos, where it stands out of the others."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import QUICK, draw_photo

from anomaly.config import RunConfig
from anomaly.fitting.run import fit
from anomaly.quality.outliers import LEVEL, highest_stands_out


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
        assert highest_stands_out(np.exp(np.append(rest, low))) == pytest.approx(0.05, abs=5e-4)


def test_of_normal_logarithms_the_highest_stands_out_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(0)
    found = [highest_stands_out(np.exp(rng.normal(0, 0.3, 20))) for _ in range(2000)]
    assert np.mean([p is not None and p < LEVEL for p in found]) == pytest.approx(LEVEL, abs=0.015)


def test_few_scores_and_like_scores_tell_nothing() -> None:
    assert highest_stands_out([1.0] * 6 + [9.0]) is None
    assert highest_stands_out([1.0] * 20) is None


def test_what_has_no_logarithm_is_asked_as_it_is() -> None:
    spread = np.linspace(-1, 0.5, 19)
    assert highest_stands_out([*spread, 200.0]) == pytest.approx(0, abs=1e-12)
    assert (highest_stands_out([*spread, 0.6]) or 0) > LEVEL


def test_a_fit_names_the_calibration_photo_to_look_at(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    (tmp_path / "good").mkdir()
    for i in range(44):
        photo = draw_photo(rng)
        if i == 7:
            photo[30:60, 40:80] = (250, 20, 250)
        cv2.imwrite(str(tmp_path / f"good/{i:02}.png"), photo)
    told: list[str] = []
    config = RunConfig.load(None, [*QUICK, "seed=1"])
    fitted = fit(tmp_path / "good", tmp_path / "model", config, say=told.append)
    assert any(Path(row["path"]).name == "07.png" for row in fitted.bundle.calibration_photos)
    assert sum("look at the calibration photo" in line and "07.png: it scores" in line for line in told) == 1
