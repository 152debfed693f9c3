"""The measurement of speed runs, and its figures hang together; what they are is not tested."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly.bundle import read_bundle
from anomaly.models.filters import FILTERS, FINE, LEVELS, MIXED, ROWS, SECOND_FILTERS, SECOND_WINDOW, WINDOW
from anomaly.scorers import FitContext
from anomaly.scorers.eigenimages import EigenimageOptions, Eigenimages
from pipelines.speed import __main__ as speed
from pipelines.speed import bank, beside, limits, profile, tables
from tests.conftest import fake_anomalib


@pytest.mark.slow
def test_the_tables_of_speed_are_complete(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(speed, "data_folder", lambda name, scratch: product)
    arguments = ["--json", "--models", "128:auto", "--runtimes", "torch,onnxruntime", "--photos", "8"]
    arguments += ["--many", "16", "--banks", "300,600", "--out", str(tmp_path / "report")]
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    speed.main()
    found = json.loads(capsys.readouterr().out)
    assert [row["runtime"] for row in found["rates"]] == ["torch", "onnxruntime"]
    for row in found["rates"]:
        assert row["share"] == pytest.approx(row["rate"] / row["backbone"])
        assert row["rate_good"] > 0
        assert row["first_verdict_s"] > 0 and 50 < row["peak_mb"] < 20_000
    assert {"decode", "backbone", "scorer embedding", "fusion"} <= set(found["stages"][0]["ms"])
    assert found["limits"][0]["least_ms"] > 0
    assert found["many"][0]["points"][-1][0] == found["many"][0]["photos"] == 16
    assert [row["patches"] for row in found["bank"]] == [300, 600]
    assert {row["recall"] for row in found["bank"]} == {1.0}
    page = (tmp_path / "report/report.html").read_text()
    assert "Cost against bank size" in page and "Time against photos" in page
    assert any(line.startswith("| 128:auto | onnxruntime | ") for line in tables.markdown(found).splitlines())


def test_work_counts_every_multiplication_once(model: Path) -> None:
    """Against the sum written out for the parts whose layers are known."""
    detector = read_bundle(model).detector
    photo = np.zeros((64, 96, 3), np.uint8)
    flops, traffic = limits.work_of(detector, photo)
    patches, size = detector.scorers["embedding"].bank.patches.shape
    positions, channels = 4 * 6, detector.encoder.backbone.channels
    network = detector.scorers["reconstruction"].network  # each weight is used once for every patch
    autoencoder = sum(weight.numel() for weight in network.parameters() if weight.ndim == 4)
    projection = channels * size + channels * 256 + 256 * size
    texture = detector.scorers["texture"].bank.patches
    woven = texture.shape[1] ** 2 + texture.size
    coarse = detector.scorers["coarse"].bank.patches
    halved = channels * coarse.shape[1] + coarse.size
    pixels = sum((64 // level) * (96 // level) for level in LEVELS)
    rows = sum((64 // level + WINDOW - 1) * (96 // level) for level in LEVELS)  # also beyond the edges
    filters = rows * 3 * WINDOW * ROWS + pixels * ROWS * WINDOW * FILTERS
    cells = (64 // FINE) * (96 // FINE)
    filters += cells * (48 * MIXED + MIXED * SECOND_WINDOW**2 * SECOND_FILTERS)
    known = 2 * (positions * (autoencoder + projection + patches * size + woven) + 2 * 4 * halved + filters)
    backbone = flops - known
    seen = 64 * 96 + 32 * 64  # the photo, and at half its size, which is rounded up
    assert 2 * 200e6 * seen / 224**2 < backbone < 2 * 500e6 * seen / 224**2  # 385 million at 224 px
    assert traffic > 4 * patches * size


def test_work_counts_the_components_of_eigenimages_there_and_back(model: Path) -> None:
    detector = read_bundle(model).detector
    detector.encoder.give(["pixels"])
    scorer = Eigenimages(EigenimageOptions())
    scorer.fit([torch.rand(3, 64, 96) for _ in range(4)], FitContext())
    photo = np.zeros((64, 96, 3), np.uint8)
    without = limits.work_of(replace(detector, scorers={}), photo)
    flops, traffic = limits.work_of(replace(detector, scorers={"eigenimages": scorer}), photo)
    assert scorer.components.shape == (3, 3 * 8 * 12)
    assert flops - without[0] == 4 * scorer.components.numel()
    assert traffic - without[1] == 8 * scorer.components.numel()


def test_stages_and_tables_of_a_small_model(model: Path, product: Path) -> None:
    found = profile.stages(read_bundle(model), product / "test", "torch")
    assert found["runtime"] == "torch" and min(found["ms"].values()) >= 0
    measured = {
        "set": "x", "date": "d", "machine": "m", "rates": [], "limits": [], "many": [], "beside": [],
        "stages": [{"model": "128:auto", **found}],
        "bank": bank.curve([300]),
    }  # fmt: skip
    lines = tables.markdown(measured).splitlines()
    shares = [line.split("|")[4].strip(" %") for line in lines if line.startswith("| 128:auto |")]
    assert sum(int(share) for share in shares if share) == pytest.approx(100, abs=8)
    assert any(line.startswith("| 300 | ") and line.endswith("| 1 |") for line in lines)


def test_patchcore_is_asked_beside_the_bank_of_the_model(model: Path, product: Path, tmp_path: Path) -> None:
    fake = fake_anomalib(tmp_path, train=45)
    theirs, ours = beside.patchcore(fake, product, read_bundle(model), 7.0, tmp_path)
    assert theirs == {
        "model": "anomalib patchcore", "fit_seconds": 1, "image_auroc": 1.0, "photos_per_second": 2
    }  # fmt: skip
    assert ours["photos_per_second"] == 7.0 and 0 <= ours["image_auroc"] <= 1 and ours["fit_seconds"] > 0
