"""Photos of another shape or size than the calibration photos are counted and told."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_photo
from test_commands import run

from anomaly.quality.shapes import Shapes


@pytest.mark.parametrize(
    ("size", "unlike"),
    [
        ((96, 128), False),
        ((960, 1280), False),
        ((48, 64), False),
        ((47, 62), True),
        ((100, 128), False),
        ((106, 128), True),
        ((96, 144), True),
        ((128, 96), True),
        ((400, 200), False),
    ],
)
def test_another_shape_is_more_than_a_tenth_off_and_another_size_less_than_half(
    size: tuple[int, int], unlike: bool
) -> None:
    shapes = Shapes([(96, 128), (96, 128), (200, 100)])
    shapes.add(size)
    assert shapes.unlike == unlike and (shapes.sentence is not None) == unlike
    without = Shapes([])
    without.add(size)
    assert without.sentence is None


def test_an_inspection_says_how_many_are_unlike_also_when_it_was_resumed(
    capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    for i, size in enumerate(((96, 128), (128, 128), (40, 52), (96, 128))):
        (tmp_path / "in").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"in/{i}.png"), cv2.resize(draw_photo(rng), size[::-1]))
    (tmp_path / "in/4.png").write_bytes(b"torn")
    out = tmp_path / "out"
    arguments = ("inspect", tmp_path / "in", "--model", model, "--out", out, "--resume")
    for _ in range(2):
        code, _, stderr = run(capfd, *arguments)
        assert code == 0, stderr
        told = json.loads((out / "summary.json").read_text())["shapes"]
        assert told["unlike"] == 2 and told["sentence"] in stderr
        assert "2 of the 4 photos have another shape than the calibration photos (128 x 96 px)" in stderr
        assert told["sentence"] in (out / "report.html").read_text()
    sizes = [json.loads(line)["size"] for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert sizes == [[96, 128], [128, 128], [40, 52], [96, 128], None]


def test_an_evaluation_says_so_too(capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for i, size in enumerate(((96, 128), (128, 128))):
        (tmp_path / "test" / "good").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"test/good/{i}.png"), cv2.resize(draw_photo(rng), size[::-1]))
    code, stdout, stderr = run(capfd, "evaluate", tmp_path, "--model", model, "--json", "--no-track")
    assert code == 0, stderr
    assert json.loads(stdout)["shapes"]["unlike"] == 1
    code, _, stderr = run(capfd, "evaluate", tmp_path, "--model", model, "--no-track")
    assert "1 of the 2 photos has another shape than the calibration photos (128 x 96 px)" in stderr
