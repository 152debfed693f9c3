"""Predicted against real visibility: the arithmetic, and the pipeline on a drawn stand-in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly.config import RunConfig
from anomaly.metrics import image_auroc
from anomaly.quality.paired import delong_test
from pipelines.dials.agreement import PREDICTIONS, at_size, summary
from pipelines.dials.page import report
from pipelines.dials.sets import SETS
from pipelines.dials.twins import LEAST, ROUNDS, Known, described, drawn
from pipelines.visibility_study import main

GOOD, BAD = 40, 40
STRENGTHS = (0.1, 0.3, 0.6)


def cells(defect: list[list[float]], visible: list[float], normal: list[float]) -> list[dict[str, Any]]:
    """One model for each of STRENGTHS; the second has the default dials. `defect` are the scores of the
    defective photos by model, `visible` how well each model sees every probe."""
    out = []
    for strength, scores, seen in zip(STRENGTHS, defect, visible, strict=True):
        photos = [
            {"type": kind, "place": str(i), "embedding": score, "fused": score}
            for kind, part in ((None, normal), ("defect", scores))
            for i, score in enumerate(part)
        ]
        out.append(
            {
                "augmentation_strength": strength, "embedding_size": 256, "temperature": 0.1,
                "supervised_weight": 0.0, "seed": 0, "suppression_index": 1 - seen,
                "suppression_interval": [1 - seen, 1 - seen], "overkill": 0, "held_out": 10,
                "held_out_auroc": 0.5, "magnitudes": {"crack": [8, 32, 128]},
                "visibility_by_scorer": {name: {"crack": seen} for name in ("embedding", "fused")},
                "auroc_by_scorer": {
                    name: {"crack": [0.5, 0.5 + seen / 2, 1.0]} for name in ("embedding", "fused")
                },
                "suppression_by_scorer": {name: 1 - seen for name in ("embedding", "fused")},
                "more": {
                    "photos": photos, "sizes": {"defect": 32.0},
                    "untouched": [{"embedding": i, "fused": i} for i in range(10)],
                    "twins": {
                        "defect": [{"embedding": 10 * seen + i, "fused": 10 * seen + i} for i in range(10)]
                    },
                },
            }
        )  # fmt: skip
    return out


@pytest.fixture
def scores() -> tuple[list[float], list[list[float]]]:
    rng = np.random.default_rng(1)
    bad = rng.normal(size=BAD)
    return rng.normal(size=GOOD).tolist(), [(bad + shift).tolist() for shift in (2.0, 1.0, 0.2)]


def test_prediction_and_defects_are_ranked(scores: tuple[list[float], list[list[float]]]) -> None:
    normal, defect = scores
    right = summary({"kolektor_sdd": cells(defect, [0.6, 0.5, 0.2], normal)}, RunConfig())
    wrong = summary({"kolektor_sdd": cells(defect, [0.2, 0.5, 0.6], normal)}, RunConfig())
    for words in PREDICTIONS.values():
        for told, rank in ((right, 1), (wrong, -1)):
            one = told["spearman"]["fused"][words]
            assert one["all points"] == pytest.approx(rank)
            assert one["between models, for one type, mean"] == pytest.approx(rank)
            assert one["between models of a set, mean over its types"]["kolektor_sdd"] == pytest.approx(rank)
    first = right["points"][0]
    labels = np.repeat([0, 1], [GOOD, BAD])
    assert first["auroc"] == pytest.approx(image_auroc([*normal, *defect[0]], labels))
    assert first["at_size"] == pytest.approx(0.6)
    flat = summary({"kolektor_sdd": cells(defect, [0.5, 0.5, 0.5], normal)}, RunConfig())
    assert flat["spearman"]["fused"][PREDICTIONS["mean"]]["all points"] is None


def test_visibility_at_the_size_of_a_defect_lies_between_magnitudes() -> None:
    assert at_size(16, (8, 32), (0.6, 1.0)) == pytest.approx(0.6)
    assert at_size(2, (8, 32), (0.6, 1.0)) == pytest.approx(0.2)
    assert at_size(500, (8, 32), (0.6, 0.4)) == 0


def test_margins_are_those_of_the_same_photos(scores: tuple[list[float], list[list[float]]]) -> None:
    normal, defect = scores
    told = summary({"kolektor_sdd": cells(defect, [0.6, 0.5, 0.2], normal)}, RunConfig())["margins"]["fused"]
    one = told["by_set"]["kolektor_sdd"]
    assert one["recommended"].startswith("strength 0.1")
    assert one["against"]["least visible"]["dials"].startswith("strength 0.6")
    test = delong_test([*normal, *defect[0]], [*normal, *defect[1]], np.repeat([0, 1], [GOOD, BAD]))
    margin = one["against"]["default"]
    assert margin["margin"] == pytest.approx(test.difference)
    assert test.interval is not None
    assert margin["interval"] == pytest.approx(test.interval, abs=0.02)
    assert told["mean over sets"]["default"] == {k: margin[k] for k in ("margin", "interval")}
    assert one["against"]["best"]["margin"] == 0
    other = RunConfig.load(None, ["contrastive.augmentation_strength=0.6"])
    told = summary({"kolektor_sdd": cells(defect, [0.6, 0.5, 0.2], normal)}, other)["margins"]["fused"]
    assert told["by_set"]["kolektor_sdd"]["against"]["default"]["dials"].startswith("strength 0.6")


def test_photos_of_one_place_are_drawn_together(scores: tuple[list[float], list[list[float]]]) -> None:
    normal, defect = scores
    apart = summary({"kolektor_sdd": cells(defect, [0.6, 0.5, 0.2], normal)}, RunConfig())
    together = cells(
        [[value for value in row for _ in range(4)] for row in defect],
        [0.6, 0.5, 0.2],
        [value for value in normal for _ in range(4)],
    )
    for cell in together:
        for photo in cell["more"]["photos"]:
            photo["place"] = str(int(photo["place"]) // 4)
    grouped = summary({"kolektor_sdd": together}, RunConfig())
    widths = []
    for told in (apart, grouped):
        margin = told["margins"]["fused"]["by_set"]["kolektor_sdd"]["against"]["worst"]
        widths.append(margin["interval"][1] - margin["interval"][0])
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


def test_the_report_shows_every_set(scores: tuple[list[float], list[list[float]]]) -> None:
    found = {"kolektor_sdd": cells(scores[1], [0.6, 0.5, 0.2], scores[0])}
    page = report(found, summary(found, RunConfig()))
    assert "1.00 over all points, 1.00 between models" in page.answer
    assert any(section.heading == "kolektor_sdd" for section in page.result)


def test_every_set_has_a_probe_for_each_of_its_types_that_exists() -> None:
    from anomaly.probes import PROBES

    assert len(SETS) >= 3
    assert {probe for one in SETS.values() for probe in one.stands_for.values()} <= set(PROBES.names())


def test_a_catalogue_tells_size_and_contrast_at_the_working_size() -> None:
    rng = np.random.default_rng(0)
    photo = np.clip(120 + rng.normal(0, 6, (200, 200, 1)) + np.zeros(3), 0, 255).astype(np.uint8)
    mask = np.zeros((200, 200), bool)
    mask[80:120, 60:100] = True
    photo[mask] -= 30
    known = described(photo, mask, photo)
    assert known is not None
    assert known.size == pytest.approx(40 * 2**0.5, abs=1)
    assert known.contrast == pytest.approx(30, abs=1)
    half = described(photo, mask, photo[::2, ::2])
    assert half is not None and half.size == pytest.approx(known.size / 2, abs=0.5)
    assert half.contrast == pytest.approx(30, abs=2)
    faint = described(np.full_like(photo, 90), mask, np.full_like(photo, 90))
    assert faint is not None and faint.contrast == LEAST
    assert described(photo, np.zeros_like(mask), photo) is None


def test_twins_are_as_large_and_as_faint_as_the_catalogue_says() -> None:
    photos = [np.full((128, 128, 3), 128, np.uint8)] * 3
    twins = list(drawn(photos, "spot", [Known(10, 20), Known(40, 5)]))
    assert len(twins) == ROUNDS * len(photos)
    changes = [np.abs(twin.astype(int) - 128).max(axis=2) for twin in twins]
    assert [int(change.max()) for change in changes] == [20, 5] * 3
    areas = [np.count_nonzero(change) for change in changes]
    assert max(areas[::2]) < 120 < 600 < min(areas[1::2])
    assert not (twins[0] == twins[4]).all()
    faded = [np.linspace(0, 255, 128 * 128 * 3).reshape(128, 128, 3).astype(np.uint8)]
    spreads = [float(twin.std()) for twin in drawn(faded, "fade", [])]
    assert spreads[0] > spreads[1]


def test_sets_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANOMALY_DATA", str(tmp_path))
    assert main(["--out", str(tmp_path / "out"), "--sets", "bsdata"]) == 3
    assert "bsdata is not in $ANOMALY_DATA" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pipeline_runs_on_a_drawn_set_and_goes_on(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data/kolektor_sdd"
    shutil.copytree(product, folder)
    (folder / "test/spot").rename(folder / "test/defect")
    (folder / "ground_truth/spot").rename(folder / "ground_truth/defect")
    monkeypatch.setenv("ANOMALY_DATA", str(tmp_path / "data"))
    less = ("--out", str(tmp_path / "out"), "--sets", "kolektor_sdd", "--strengths", "0.3")
    less += ("--image-size", "96", "--json", "--set", "contrastive.steps=5", "--set", "contrastive.views=4")
    less += ("--set", "scorers.reconstruction.steps=20")
    assert main([*less, "--sizes", "8,256", "--only-done"]) == 2
    assert "is done: leave --only-done out" in capsys.readouterr().err
    assert main([*less, "--sizes", "8"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*less, "--sizes", "8,256"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert first["points"] == [point for point in told["points"] if ", 8 dim" in point["dials"]]
    assert len(told["points"]) == 4
    assert main([*less, "--only-done"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert all(0 <= point["auroc"] <= 1 for point in told["points"])
    assert "default" in told["margins"]["fused"]["mean over sets"]
    assert (tmp_path / "out/report.html").exists()
