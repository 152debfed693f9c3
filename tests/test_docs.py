"""What the README tells its reader to type works."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import QUICK
from test_commands import run

ROOT = Path(__file__).parent.parent


def commands(page: str = "README.md") -> list[list[str]]:
    blocks = re.findall(r"```\n(.*?)```", (ROOT / page).read_text(), re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("anomaly ")]


def copy_test_photos(product: Path, folder: Path) -> None:
    """The product without its training photos, in the same layout."""
    for part in ("test", "ground_truth"):
        shutil.copytree(product / part, folder / part)
    (folder / "train/good").mkdir(parents=True)


def test_the_three_commands_run_as_written(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(product / "train/good", "photos/good")
    shutil.copytree(product / "test", "photos/new")
    copy_test_photos(product, tmp_path / "dataset")
    assert [words[1] for words in commands()] == ["fit", "inspect", "evaluate"]
    for words in commands():
        quick = [part for setting in QUICK for part in ("--set", setting)] if words[1] == "fit" else []
        code, _, stderr = run(capfd, *words[1:], *quick)
        assert code == 0, stderr
    assert (tmp_path / "results/report.html").exists()


def test_the_studies_run_as_written(
    capfd: pytest.CaptureFixture[str],
    product: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_test_photos(product, tmp_path / "dataset")
    shutil.copytree(product / "test/good", "photos/held_out")
    for label, folder in (("good", "good"), ("bad", "spot")):
        for i in range(6):
            part = tmp_path / f"photos/parts/{label}/{i // 2}"
            part.mkdir(parents=True, exist_ok=True)
            shutil.copy(product / f"test/{folder}/{i:03d}.png", part)
    for name in ("cap", "cap2"):
        shutil.copytree(model, f"models/{name}")
    studies = commands("docs/appraisal.md")
    assert [words[1] for words in studies] == ["pod", "pod", "gauge", "compare"]
    for words in studies:
        few = ["--defects", "4", "--contrast", "100"] if "--synthetic" in words else []
        code, _, stderr = run(capfd, *words[1:], *few)
        assert code == 0, stderr
    reports = sorted(path.parent.name for path in tmp_path.glob("results/*/report.html"))
    assert reports == ["compare", "drawn", "gauge", "pod"]


def test_the_commands_of_the_inspection_page_run_as_written(
    capfd: pytest.CaptureFixture[str],
    model: Path,
    product: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(product / "test/spot", "photos/new")
    shutil.copytree(model, "models/cap")
    written = commands("docs/inspection.md")
    assert [words[1] for words in written] == ["export", "inspect", "inspect", "watch"]
    for words in written:
        if words[1] == "watch":
            shutil.rmtree("results")
        code, _, stderr = run(capfd, *words[1:])
        assert code == 0, stderr
    assert len((tmp_path / "results/verdicts.jsonl").read_text().splitlines()) == 6


def test_the_commands_of_the_speed_page_run_as_written(
    capfd: pytest.CaptureFixture[str],
    own_model: Path,
    product: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    for limit in ("LARGEST_LOSS", "LARGEST_CHANGE"):  # on twelve small photos a lot may change
        monkeypatch.setattr(f"anomaly.export.loss.{limit}", 1.0)
    (tmp_path / "models").mkdir()
    own_model.rename("models/cap")
    copy_test_photos(product, tmp_path / "dataset")
    written = commands("docs/speed.md")
    assert [words[1] for words in written] == ["export", "evaluate"]
    for words in written:
        code, _, stderr = run(capfd, *words[1:])
        assert code == 0, stderr
        said = "on 12 labelled photos" if words[1] == "export" else "judging with openvino-bfloat16"
        assert said in stderr


def test_thresholds_are_tuned_as_written(
    capfd: pytest.CaptureFixture[str],
    product: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, "models/cap")
    copy_test_photos(product, tmp_path / "dataset")
    shutil.copytree(product / "test/good", "photos/cameras/left")
    Path("photos/lots.csv").write_text("path,group\ncameras/left/000.png,lot 7\n")
    written = commands("docs/thresholds.md")
    assert [words[1] for words in written] == ["tune"] * 6 + ["audit"] * 2 + ["inspect"] * 3
    for words in written:
        code, _, stderr = run(capfd, *words[1:])
        assert code == 0, stderr
    assert len(list(tmp_path.glob("models/cap.versions/version-*.html"))) == 4, (
        "the one rolled back to has a page too"
    )


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
