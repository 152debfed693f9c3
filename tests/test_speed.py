"""The measurement of speed runs, and its figures hang together; what they are is not tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipelines import speed


@pytest.mark.slow
def test_the_table_of_speed_is_complete(
    product: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(speed, "data_folder", lambda name, scratch: product)
    monkeypatch.setattr(speed, "find_spec", lambda name: name == "onnxruntime")
    arguments = ["--json", "--sizes", "auto", "--photos", "3", "--memory", "4", "--banks", "300"]
    monkeypatch.setattr(sys, "argv", ["speed", *arguments, "--set", "bracket"])
    speed.main()
    found = json.loads(capsys.readouterr().out)
    assert [row["runtime"] for row in found["rates"]] == ["torch", "onnxruntime"]
    for row in found["rates"]:
        assert row["share"] == pytest.approx(row["rate"] / row["backbone"])
        assert row["first_verdict_s"] > 0 and 50 < row["peak_mb"] < 20_000
    assert {"decode", "backbone", "scorer embedding", "fusion", "heatmap"} <= set(found["stages_ms"])
    assert found["memory"][0]["photos"] == 4
    assert found["bank"][0]["patches"] == 300 and found["bank"][0]["recall"] == 1.0
    lines = speed.table(found).splitlines()
    assert any(line.startswith("| auto | onnxruntime | ") for line in lines)
    assert any(line.startswith("| 300 | ") for line in lines)
