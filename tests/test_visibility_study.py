"""Predicted against real visibility: the arithmetic, and the pipeline on a drawn stand-in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines.visibility_study import STANDS_FOR, main, report, summary


def results(aurocs: list[float], visibilities: list[float]) -> list[dict[str, object]]:
    """One model for each strength 0.1, 0.2 ...; the first has the index of all default dials but strength."""
    return [
        {
            "augmentation_strength": strength, "embedding_size": 256, "temperature": 0.1,
            "supervised_weight": 0.0, "seed": 0, "suppression_index": 1 - seen,
            "suppression_interval": [1 - seen, 1 - seen], "overkill": 0, "held_out": 10,
            "held_out_auroc": 0.5,
            "visibility_by_scorer": {name: {"crack": seen} for name in ("embedding", "fused")},
            "suppression_by_scorer": {name: 1 - seen for name in ("embedding", "fused")},
            "more": {"defect": {"embedding": auroc, "fused": auroc}},
        }
        for strength, auroc, seen in zip((0.1, 0.3, 0.6), aurocs, visibilities, strict=True)
    ]  # fmt: skip


def test_ranks_and_what_the_recommendation_is_worth() -> None:
    found = {"kolektor_sdd": results([0.9, 0.8, 0.7], [0.6, 0.5, 0.2])}
    told = summary(found)
    assert told["spearman"]["fused"]["all points, the probe that stands for the type"] == pytest.approx(1)
    assert told["spearman"]["fused"]["between models, within a type, mean over types"] == pytest.approx(1)
    best = told["recommended"]["kolektor_sdd"]
    assert (best["auroc"], best["default"], best["worst"], best["best"]) == (0.9, 0.8, 0.7, 0.9)
    assert "1.00" in report(found, told).answer
    wrong = summary({"kolektor_sdd": results([0.7, 0.8, 0.9], [0.6, 0.5, 0.2])})
    assert wrong["spearman"]["embedding"]["all points, mean visibility"] == pytest.approx(-1)
    flat = summary({"kolektor_sdd": results([0.7, 0.8, 0.9], [0.5, 0.5, 0.5])})
    assert flat["spearman"]["fused"]["all points, mean visibility"] is None


def test_every_set_has_a_probe_for_each_of_its_types_that_exists() -> None:
    from anomaly.probes import PROBES

    assert len(STANDS_FOR) >= 3
    assert {probe for kinds in STANDS_FOR.values() for probe in kinds.values()} <= set(PROBES.names())


def test_sets_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANOMALY_DATA", str(tmp_path))
    assert main(["--out", str(tmp_path / "out"), "--sets", "bsdata"]) == 3
    assert "bsdata is not in $ANOMALY_DATA" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pipeline_runs_on_a_drawn_set(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data/kolektor_sdd"
    shutil.copytree(product, folder)
    (folder / "test/spot").rename(folder / "test/defect")
    (folder / "ground_truth/spot").rename(folder / "ground_truth/defect")
    monkeypatch.setenv("ANOMALY_DATA", str(tmp_path / "data"))
    less = (
        "--sets",
        "kolektor_sdd",
        "--strengths",
        "0.3",
        "--sizes",
        "8,256",
        "--image-size",
        "96",
        "--json",
    )
    assert main(["--out", str(tmp_path / "out"), *less]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["points"]) == 4
    assert all(0 <= point["auroc"] <= 1 for point in told["points"])
    assert told["recommended"]["kolektor_sdd"]["default"] is not None
    assert (tmp_path / "out/report.html").exists()
