"""The study of promises: how often they are broken, on scores whose law is known, and from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK

from anomaly.data.layouts import read_samples
from anomaly.detector import Detector
from anomaly.models.training import Silent
from pipelines import calibration_study
from pipelines.calibration_study import Question, Row, ask, group_of


def planted(scores: np.ndarray, anomalous: bool = False, group_size: int = 1) -> list[Row]:
    return [Row(anomalous, str(i // group_size), score) for i, score in enumerate(scores.tolist())]


@pytest.mark.parametrize("promise", ["overkill", "escape"])
def test_independent_scores_keep_the_promise(promise: str) -> None:
    rows = planted(np.random.default_rng(1).normal(size=900), promise == "escape")
    found = ask(Question(promise, 0.05, 100), rows, splits=400)  # type: ignore[arg-type]
    assert 0.01 < found["mean_rate"] < 0.03 and found["broken"] <= found["may_be_broken"]
    above = found["broken_on_the_rest"] - found["law_on_the_rest"]
    assert above < 0.03
    if promise == "overkill":
        assert above > -0.03, "the law of an order statistic; escapes keep half a gap more"
    assert (found["drawn"], found["of"]) == (100, 900)


def test_photos_of_one_part_break_it_and_counting_parts_mends_it() -> None:
    rng = np.random.default_rng(2)
    rows = planted(np.repeat(rng.normal(size=150), 6) + rng.normal(0, 0.01, 900), group_size=6)
    photos = ask(Question("overkill", 0.05, 360, split_groups=True), rows, splits=300)
    parts = ask(Question("overkill", 0.05, 60, by_group=True), rows, splits=300)
    assert photos["broken"] > 2 * photos["may_be_broken"]
    assert parts["broken"] <= parts["may_be_broken"] and parts["of"] == 150


def test_a_place_on_a_day_is_one_part() -> None:
    assert group_of("bsdata", Path("01_200828110014_277500_315_crop_2.jpg")) == "277500_315_200828"
    assert group_of("magnetic_tile", Path("exp1_num_1.jpg")) is None


def test_the_study_scores_once_and_prints_a_row_for_each_question(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANOMALY_DATA", str(product.parent))
    monkeypatch.setattr(calibration_study, "SETTINGS", QUICK)
    monkeypatch.setattr(calibration_study, "FIT_PHOTOS", 40)
    few = (Question("escape", 0.5, 5), Question("overkill", 0.01, 6))
    questions = (Question("overkill", 0.4, 6), Question("escape", 0.6, 4), *few)
    monkeypatch.setattr(calibration_study, "QUESTIONS", {product.name: questions, "absent": questions})
    arguments = [
        "study",
        "--splits",
        "20",
        "--models",
        str(tmp_path / "c"),
        "--sets",
        f"{product.name},absent",
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json"])
    calibration_study.main()
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [(row["promise"], row["of"]) for row in rows] == [("overkill", 11), ("escape", 6)]
    assert "needs at least 299" in told.err and "absent: not in" in told.err
    assert "left out: escape at most 0.5: 6 are too few to draw 5" in told.err
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(calibration_study, "fit", None)
    monkeypatch.setattr(Detector, "score", None)
    calibration_study.main()
    assert capsys.readouterr().out.count("\n| " + product.name) == 2, "of the model that is there, unscored"


def test_a_model_that_was_fitted_elsewhere_is_asked_about_photos_it_has_not_seen(
    product: Path, own_model: Path
) -> None:
    samples = read_samples(product)
    bundle = calibration_study.model_of(own_model.name, samples, own_model.parent, Silent())
    rows = calibration_study.scored(bundle, samples, Silent())
    assert bundle.path == own_model and [row.anomalous for row in rows].count(True) == 6
    assert len(rows) == 12, "the test photos alone"
