"""The command line as its user meets it: results, sentences and exit codes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import QUICK, draw_photo

from anomaly.bundle import read_bundle
from anomaly.cli import main
from anomaly.policy.policy import Cut, Policy


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `anomaly ARGUMENTS`."""
    before, sys.argv = sys.argv, ["anomaly", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as exit_:
            main()
    finally:
        sys.argv = before
    out, err = capfd.readouterr()
    return int(exit_.value.code or 0), out, err


def test_inspect_writes_everything_and_never_passes_a_broken_photo(
    capfd: pytest.CaptureFixture[str], model: Path, product: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "=cmd|'<b>.png"
    broken.write_bytes(b"no photo")
    out, named = tmp_path / "out", tmp_path / "list.csv"
    named.write_text("path\nabsent.png\n")
    code, stdout, stderr = run(
        capfd, "inspect", product / "test", broken, named,
        "--model", model, "--out", out, "--json", "--fail-on-anomaly",
    )  # fmt: skip
    assert code == 10, stderr
    verdicts = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert [json.loads(line) for line in stdout.splitlines()] == verdicts
    by_name = {Path(v["path"]).name: v for v in verdicts[12:]}
    assert [v["decision"] for v in by_name.values()] == ["error", "error"]
    assert "no such file: check the path" in by_name["absent.png"]["error"]
    decisions = {Path(v["path"]).parent.name: v["decision"] for v in verdicts if v["decision"] == "anomalous"}
    assert decisions == {"spot": "anomalous"}
    for verdict in verdicts:
        if verdict["decision"] == "anomalous":
            assert verdict["image_score"] > verdict["threshold"]
            assert verdict["regions"] and 0 < verdict["p_value"] <= 1 / 20
            assert (out / verdict["heatmap"]).exists() and (out / verdict["anomaly_map"]).exists()
    with open(out / "verdicts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["decision"] for row in rows] == [v["decision"] for v in verdicts]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["photos"] == 14 and summary["error"] == 2 and summary["anomalous"] == 6
    page = (out / "report.html").read_text()
    assert "<b>.png" not in page and "http" not in page.replace("http-equiv", "")


def test_photos_unlike_the_calibration_photos_are_told(
    capfd: pytest.CaptureFixture[str], own_model: Path, product: Path, tmp_path: Path
) -> None:
    """Photos under another light pass a lax threshold, and still look different."""
    alike, darker = tmp_path / "alike", tmp_path / "darker"
    rng = np.random.default_rng(11)
    for folder, light in ((alike, 1.0), (darker, 0.85)):
        folder.mkdir()
        for i in range(20):
            cv2.imwrite(str(folder / f"{i:02d}.png"), (light * draw_photo(rng)).astype(np.uint8))
    bundle = read_bundle(own_model)
    highest = max(bundle.detector.score(bundle.detector.read(path)).image_score for path in darker.iterdir())
    lax = replace(bundle.detector.policy, cut=Cut(highest + 1))
    born = Policy.born(bundle.detector.calibration)
    bundle.versions.add(lax, born, why="a test", who="Ada", facts={})
    said = {}
    for folder in (alike, darker):
        out = tmp_path / "out" / folder.name
        code, _, stderr = run(capfd, "inspect", folder, "--model", own_model, "--out", out)
        assert code == 0, stderr
        found = json.loads((out / "summary.json").read_text())["likeness"]
        said[folder.name] = found["sentence"]
        assert found["photos"] == 20
        if found["sentence"]:
            assert found["sentence"] in stderr and found["sentence"] in (out / "report.html").read_text()
    assert said["alike"] is None and "20 of the 20 photos" in said["darker"]


def test_more_false_alarms_than_the_promise_allows_are_told(
    capfd: pytest.CaptureFixture[str], model: Path, product: Path, tmp_path: Path
) -> None:
    arguments = ("evaluate", product, "--model", model, "--no-track")
    code, stdout, stderr = run(capfd, *arguments)
    assert code == 0 and "not like those that the threshold rests on" not in stderr
    assert re.search(r"^image_auroc: [01]\.\d{4} \(0\.\d{4} to 1\.0000\)$", stdout, re.M)
    assert re.search(r"^image_f1_max: .* best on these very photos$", stdout, re.M)
    assert re.search(r"^  spot: AUROC .* \(.* to .*\), escapes \d of 6 \(.* to .*\)$", stdout, re.M)
    assert "image_auroc of each branch alone: reconstruction " in stdout
    assert "like the 19 calibration photos" in stdout
    assert "review_threshold" not in stdout + stderr
    folder = tmp_path / "product"
    (folder / "train/good").mkdir(parents=True)
    shutil.copytree(product / "test/spot", folder / "test/spot")
    shutil.copytree(product / "test/spot", folder / "test/good")
    for index, path in enumerate((folder / "test/good").iterdir()):
        cv2.imwrite(str(path), cv2.imread(str(path)) // 2 + index)
    code, stdout, stderr = run(capfd, "evaluate", folder, *arguments[2:])
    assert code == 0 and "overkill_rate: 1.0000" in stdout
    assert "not like those that the threshold rests on" in stderr


def test_an_earlier_inspection_is_kept(
    capfd: pytest.CaptureFixture[str], model: Path, product: Path, tmp_path: Path
) -> None:
    arguments = ("inspect", product / "test/good/000.png", "--model", model, "--out", tmp_path / "out")
    assert run(capfd, *arguments)[0] == 0
    code, _, stderr = run(capfd, *arguments)
    assert code == 3 and "already holds verdicts.jsonl" in stderr
    assert run(capfd, *arguments, "--overwrite")[0] == 0
    code, _, stderr = run(capfd, "inspect", product / "test/good/001.png", *arguments[2:], "--resume")
    assert code == 3 and "the finished inspection in" in stderr and "(changed: paths)" in stderr


def test_photos_that_are_none_are_no_success(
    capfd: pytest.CaptureFixture[str], model: Path, product: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new/out"
    arguments = (product / "test/good/000.png", "--model", model, "--out", out)
    code, _, stderr = run(capfd, "inspect", product / "tset", *arguments)
    assert code == 3 and f"{product / 'tset'} does not exist: check the path" in stderr
    assert not out.parent.exists()
    (tmp_path / "README.md").write_text("no photo")
    code, _, stderr = run(capfd, "inspect", tmp_path / "README.md", *arguments[1:], "--fail-on-anomaly")
    assert code == 3 and f"none of the photos could be judged: see the reasons in {out}" in stderr
    assert json.loads((out / "summary.json").read_text())["error"] == 1
    assert run(capfd, "inspect", tmp_path / "README.md", *arguments, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("fit", "nowhere", "--out", "m"), 3, "nowhere does not exist"),
        (("fit", ".", "--out", "m"), 3, "no photos in"),
        (("fit", ".", "--out", "m", "--set", "seeed=1"), 2, "did you mean 'seed'?"),
        (("fit", ".", "--out", "m", "--config", "no.yaml"), 2, "cannot read the configuration"),
        (("inspect", "x.png", "--model", "nothing", "--out", "o"), 3, "x.png does not exist"),
        (("inspect", str(Path(__file__)), "--model", "nothing", "--out", "o"), 4, "is not a model"),
        (("inspect", ".", "--model", "nothing", "--out", "o"), 3, "no photos in the folder"),
        (("evaluate", ".", "--model", "nothing"), 4, "is not a model"),
        (("fit",), 2, ""),
        (("no-such-command",), 2, ""),
    ],
)
def test_mistakes_end_in_one_sentence_and_a_code(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], code: int, sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    got, stdout, stderr = run(capfd, *arguments)
    assert got == code
    assert sentence in stderr and "Traceback" not in stderr and not stdout


def test_a_fit_and_its_evaluation_are_one_mlflow_run(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quick = [part for setting in QUICK[:-1] for part in ("--set", setting)]
    code, stdout, stderr = run(capfd, "fit", product, "--out", "m", "--json", *quick)
    assert code == 0, stderr
    fitted = json.loads(stdout)
    assert fitted["mlflow"]["trouble"] is None
    code, stdout, stderr = run(capfd, "evaluate", product, "--model", "m", "--json")
    assert code == 0, stderr
    metrics = json.loads(stdout)

    few = ("--photos", 2, "--probes", "spot")
    code, stdout, stderr = run(capfd, "probe", product, "--model", "m", "--out", "v", *few, "--json")
    assert code == 0, stderr
    probed = json.loads(stdout)
    code, _, stderr = run(capfd, "pod", product, "--model", "m", "--out", "filed")
    assert code == 0 and "not tracked" not in stderr, stderr

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri="sqlite:///mlflow.db")
    logged = client.get_run(fitted["mlflow"]["run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["augmentation_strength"] == "0.3"
    assert logged.data.params["embedding_size"] == "256"
    assert logged.data.params["scorers.reconstruction.steps"] == "20"
    assert logged.data.metrics["image_auroc"] == metrics["image_auroc"]
    assert logged.data.metrics["threshold"] == fitted["threshold"]
    assert logged.data.metrics["suppression_index"] == probed["suppression_index"]
    spot = probed["probes"]["spot"]["scorers"]["embedding"]["visibility"]
    assert logged.data.metrics["visibility.embedding.spot"] == spot
    assert len(client.get_metric_history(logged.info.run_id, "loss.reconstruction")) == 20
    names = {item.path for item in client.list_artifacts(logged.info.run_id)}
    assert names == {"heatmaps", "model", "reports", "score_histogram.svg", "visibility.html"}
    assert logged.data.metrics["pod.false_call_rate"] == metrics["overkill_rate"]
    (filed,) = client.list_artifacts(logged.info.run_id, "reports")
    assert filed.path.startswith("reports/filed-")


def test_a_tracking_server_that_is_down_costs_no_fit(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path
) -> None:
    quick = [part for setting in QUICK[:-1] for part in ("--set", setting)]
    code, _, stderr = run(
        capfd, "fit", product, "--out", tmp_path / "m", *quick,
        "--set", "tracking.uri=http://127.0.0.1:9", "--set", "tracking.timeout=1",
    )  # fmt: skip
    assert code == 0
    assert "not tracked: MLflow at http://127.0.0.1:9 failed" in stderr


def test_it_says_its_version(capfd: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = run(capfd, "--version")
    assert code == 0 and re.fullmatch(r"anomaly \d+\.\d+\.\d+\n", stdout)


def test_components_lists_what_is_there(capfd: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = run(capfd, "components", "--json")
    listed = json.loads(stdout)
    assert code == 0
    assert {"embedding", "reconstruction"} <= set(listed["scorer"])
    assert {"none", "efficientnet_lite0", "timm"} <= set(listed["backbone"])
    assert all(np.char.str_len(list(names.values())).min() > 10 for names in listed.values())
