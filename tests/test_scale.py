"""The measurement of scale runs, and its arithmetic is right; what its figures are is not tested."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from pipelines import scale


def test_what_a_plant_needs_follows_from_what_a_photo_costs() -> None:
    sizes = {"photo": 2e6, "verdict": 300.0, "pictures": 1e6}
    found = scale.plant(30.0, sizes, day=86_400 * 500, lines=100)
    assert found["photos a second"] == 500 and found["photos a second and line"] == 5
    assert found["cores busy"] == 15 and found["cores to have"] == 25
    assert found["MB a second read"] == 1000
    assert found["GB of verdicts a day"] == pytest.approx(12.96)
    assert found["GB of pictures a day"] == pytest.approx(864)


def test_the_processor_time_of_a_process_and_its_family_is_found() -> None:
    before = scale.cpu_seconds(os.getpid())
    while scale.cpu_seconds(os.getpid()) < before + 0.05:
        sum(range(1000))
    assert os.getpid() in scale.family(os.getppid()) and scale.family(os.getpid())[0] == os.getpid()
    assert scale.cpu_seconds(2**22 + 1) == 0 and scale.worker_mb(os.getpid()) == 0


@pytest.mark.slow
def test_the_table_of_scale_is_complete(
    product: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="pip install 'anomaly[ray]'")
    monkeypatch.setattr(scale, "data_folder", lambda name, scratch: product)
    monkeypatch.setattr(sys, "argv", ["scale", "--json", "--photos", "16", "--model", str(model)])
    scale.main()
    found = json.loads(capsys.readouterr().out)
    assert [(run["engine"], run["workers"]) for run in found["runs"]] == [
        ("local", 1), ("local", 2), ("ray", 1), ("ray", 2)
    ]  # fmt: skip
    for run in found["runs"]:
        assert run["rate"] > 0 and run["cpu_ms"] > 0 and run["start_s"] <= run["whole_s"]
        assert (run["worker_mb"] > 50) == (run["engine"] == "ray") and run["peak_mb"] > 50
    assert set(found["overhead"]) == {"1", "2"} and found["plant"]["cores to have"] >= 1
    assert found["bytes"]["photo"] > 1000 and found["bytes"]["verdict"] > 100
    lines = scale.table(found).splitlines()
    assert any(line.startswith("| ray | 2 | ") for line in lines)
