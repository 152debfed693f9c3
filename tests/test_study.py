"""The study of the dials: its choice from known results, and the command, stopped and gone on with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import QUICK, StopIn
from scipy import stats
from test_commands import run

from anomaly.bundle import read_manifest
from anomaly.config import RunConfig
from anomaly.data.layouts import read_samples
from anomaly.errors import ConfigError
from anomaly.models.backbones import Backbone
from anomaly.models.training import Silent
from anomaly.records import Sample
from anomaly.study.cells import Cell, Dials, grid
from anomaly.study.choice import recommend, summarise
from anomaly.study.diagnose import Snapshots
from anomaly.study.features import Remembering
from anomaly.study.prepare import prepare
from anomaly.study.run import Effort, _note

FIXED = Dials(0.3, 128, 0.1)
STUDENT = 2 * float(stats.t.ppf(0.975, 1))
"""Standard errors that an interval of two photos is wide."""
SMALL = [part for setting in QUICK[:-1] for part in ("--set", setting)]


def cell(strength: float, seed: int, index: float, overkill: int = 1, size: int = 128) -> dict[str, object]:
    return {
        "augmentation_strength": strength, "embedding_size": size, "temperature": 0.1,
        "supervised_weight": 0.0, "seed": seed,
        "suppression_index": index, "suppression_interval": [index - 0.1, index + 0.1],
        "overkill": overkill, "held_out": 20, "held_out_auroc": 0.5,
    }  # fmt: skip


def test_the_least_suppression_is_recommended_with_its_uncertainty() -> None:
    results = [cell(0.3, 0, 0.40), cell(0.3, 1, 0.44), cell(0.1, 0, 0.30), cell(0.1, 1, 0.32)]
    choice = recommend(summarise(results), FIXED, 0.05)
    assert choice.best.dials == Dials(0.1, 128, 0.1) and choice.fixed is not None
    assert choice.best.index == pytest.approx(0.31)
    assert choice.best.error == pytest.approx(np.hypot(0.01, 0.2 / STUDENT))  # over seeds, over photos
    assert "0.310, against 0.420" in choice.reason and "Among 2 seeds it comes first in 2" in choice.reason
    assert "Overkill on held-out normal photos is 5.0%" in choice.reason


def test_of_settings_that_are_alike_the_configured_one_is_kept() -> None:
    results = [cell(0.1, 0, 0.4), cell(0.3, 0, 0.4), cell(0.6, 0, 0.4)]
    choice = recommend(summarise(results), FIXED, 0.05)
    assert choice.best.dials == FIXED and "2 others are level with it" in choice.reason


def test_configured_dials_that_exceed_the_overkill_are_named_as_the_reason() -> None:
    choice = recommend(summarise([cell(0.1, 0, 0.5), cell(0.3, 0, 0.3, overkill=9)]), FIXED, 0.05)
    assert choice.best.dials == Dials(0.1, 128, 0.1)
    assert "the configured dials (strength 0.3, 128 dimensions" in choice.reason
    assert "exceed the overkill" in choice.reason and "other setting" not in choice.reason


def test_the_configured_dials_stay_where_the_gain_is_within_its_error() -> None:
    results = [cell(0.3, 0, 0.40), cell(0.3, 1, 0.40), cell(0.1, 0, 0.30), cell(0.1, 1, 0.49)]
    choice = recommend(summarise(results), FIXED, 0.05)
    assert choice.best.dials == FIXED
    assert "no setting is shown to be better than the configured one" in choice.reason
    one_seed = recommend(summarise([cell(0.3, 0, 0.40), cell(0.1, 0, 0.37)]), FIXED, 0.05)
    assert one_seed.best.dials == FIXED and one_seed.best.error == pytest.approx(0.2 / STUDENT)


def test_with_one_seed_settings_are_compared_on_the_same_photos() -> None:
    """Each index hangs on the photos by more than the gain; the gain itself does not."""
    each = [0.36, 0.44, 0.40, 0.40]
    fixed = cell(0.3, 0, 0.40) | {"suppression_without_each": each}
    better = cell(0.1, 0, 0.37) | {"suppression_without_each": [value - 0.03 for value in each]}
    choice = recommend(summarise([fixed, better]), FIXED, 0.05)
    assert choice.best.dials.augmentation_strength == 0.1
    assert "the standard error of the difference is 0.000" in choice.reason
    nearly = cell(0.1, 0, 0.37) | {"suppression_without_each": [0.34, 0.40, 0.36, 0.38]}
    choice = recommend(summarise([fixed, nearly]), FIXED, 0.05)  # 1.7 standard errors, of four photos
    assert choice.best.dials == FIXED and "0.030, with a standard error of 0.017" in choice.reason
    other = cell(0.1, 0, 0.37) | {"suppression_without_each": [0.44, 0.36, 0.34, 0.34]}
    apart = np.subtract(each, [0.44, 0.36, 0.34, 0.34])
    error = np.sqrt(3 / 4 * np.square(apart - apart.mean()).sum())
    choice = recommend(summarise([fixed, other]), FIXED, 0.05)
    assert choice.best.dials == FIXED and f"a standard error of {error:.3f}" in choice.reason


def test_settings_that_call_good_photos_anomalous_are_left_out() -> None:
    results = [cell(0.3, 0, 0.40), cell(0.1, 0, 0.10, overkill=9)]
    choice = recommend(summarise(results), FIXED, 0.05)
    assert choice.best.dials == FIXED and "1 other setting exceeded that" in choice.reason
    results = [cell(0.3, 0, 0.40, overkill=8), cell(0.1, 0, 0.50, overkill=6)]
    choice = recommend(summarise(results), FIXED, 0.05)
    assert choice.best.dials.augmentation_strength == 0.1 and "every setting exceeds that" in choice.reason


def test_a_grid_is_whole_after_each_seed_and_within_range() -> None:
    cells = grid(RunConfig(), [0, 0.3], [8, 16], [0.1], [0], 2)
    assert len(cells) == 8 and [one.seed for one in cells] == [0] * 4 + [1] * 4
    assert len({one.name for one in cells}) == 8
    with pytest.raises(ConfigError, match="augmentation_strength"):
        grid(RunConfig(), [1.5], [8], [0.1], [0], 1)
    short = Cell(Dials(0.2, 16, 0.5), 3).config(RunConfig())
    assert (short.contrastive.augmentation_strength, short.contrastive.embedding_size) == (0.2, 16)
    assert short.seed == 3 and short.contrastive.temperature == 0.5 and short.picture_steps == 0
    assert short.scorers["reconstruction"].steps == 120
    assert short.contrastive.steps == RunConfig().contrastive.steps


@pytest.mark.parametrize(
    ("settings", "by"),
    [
        ([], "auto"),
        (["data.any_angle=true"], "radius"),
        (["data.any_angle=true", "fusion.standardise_by=whole"], "whole"),
    ],
)
def test_cells_of_a_product_at_any_angle_standardise_as_its_fit(settings: list[str], by: str) -> None:
    short = Cell(Dials(0.2, 16, 0.5), 3).config(RunConfig.load(None, settings))
    assert short.fusion.standardise_by == by
    assert short.data.any_angle is False
    assert ("coarse" in short.branches) == (by == "auto")


class Counting(Backbone):
    name, stride, channels, pretrained = "counting", 16, 3, True

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += len(images)
        return images[:, :, ::16, ::16] / 7


def test_features_are_made_once_and_are_the_same_ever_after(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 48)).float()
    counting = Counting()
    first = Remembering(counting, tmp_path)(images)
    assert torch.allclose(first, images[:, :, ::16, ::16] / 7, rtol=1e-3)
    again = Remembering(counting, tmp_path)(images.flip(0)).flip(0)
    assert torch.equal(first, again) and counting.calls == 2
    next(tmp_path.glob("*.npy")).write_bytes(b"torn")
    assert torch.equal(Remembering(counting, tmp_path)(images), first) and counting.calls == 3
    assert not torch.equal(
        Remembering(counting, tmp_path)(images.transpose(2, 3))[0].flatten(), first[0].flatten()
    )


def test_pictures_that_differ_by_less_than_a_grey_level_are_not_one_picture(tmp_path: Path) -> None:
    image = torch.full((1, 3, 32, 32), 7.0)
    remembering = Remembering(Counting(), tmp_path)
    assert not torch.equal(remembering(image), remembering(image + 0.75))


def test_a_strict_threshold_gets_the_photos_that_it_needs(product: Path, tmp_path: Path) -> None:
    good = [one for one in read_samples(product) if one.split == "train" and one.label == "normal"]
    config = RunConfig.load(None, [*QUICK, "calibration.target_fpr=0.05"])
    kept = prepare(good, config, tmp_path, 20, 8, Silent())
    assert len(kept.train) + len(kept.held_out) == 2 * 19 + 4


def test_defects_are_drawn_on_photos_of_new_and_of_known_lots(product: Path, tmp_path: Path) -> None:
    good = [one for one in read_samples(product) if one.split == "train" and one.label == "normal"]
    lots = [replace(one, group=str(i // 6)) for i, one in enumerate(good)]
    config = RunConfig.load(None, [*QUICK, "calibration.target_fpr=0.2"])
    kept = prepare(lots, config, tmp_path / "lots", 36, 6, Silent())
    trained, new = ({one.group for one in part} for part in (kept.train, kept.held_out))
    assert not trained & new
    assert [one.group in new for one in kept.probed] == [True] * 3 + [False] * 3
    assert {one.group for one in kept.probed[3:]} <= trained and len({one.group for one in kept.probed}) > 2
    assert not {one.path for one in kept.probed[3:]} & {one.path for one in (*kept.train, *kept.held_out)}
    assert all(one.path.exists() for one in kept.probed)
    without = prepare(good, config, tmp_path / "none", 36, 6, Silent())
    assert set(without.probed) <= set(without.held_out)
    assert len(kept.train) + 3 == len(without.train)


def test_a_study_under_other_lots_is_another_study(product: Path, tmp_path: Path) -> None:
    good = [one for one in read_samples(product) if one.split == "train"]
    lots = [replace(one, group=str(i // 9)) for i, one in enumerate(good)]

    def identity(samples: list[Sample], out: str) -> object:
        (tmp_path / out).mkdir()
        return _note(tmp_path / out, RunConfig(), Effort(), ["spot"], samples, overwrite=False)["identity"]

    assert identity(good, "a") == identity(good, "b") != identity(lots, "c")


def test_snapshots_follow_the_projection_and_keep_checkpoints(tmp_path: Path) -> None:
    from anomaly.models.training import train

    network, snapshots = torch.nn.Linear(2, 1), Snapshots(tmp_path)
    rest = {"steps": 30, "learning_rate": 0.1, "seed": 0, "checkpoints": snapshots, "progress": Silent()}
    train(network, lambda _: network(torch.ones(1, 2)).square().sum(), stage="contrastive", **rest)
    assert sorted(snapshots.taken) == [1, 2, 4, 8, 16, 25, 30]
    assert not torch.equal(snapshots.taken[1]["weight"], snapshots.taken[30]["weight"])
    assert torch.equal(snapshots.taken[30]["weight"], network.weight)
    assert (tmp_path / "contrastive.safetensors").exists()


def test_snapshots_of_a_stopped_training_are_those_of_a_whole_one(tmp_path: Path) -> None:
    from anomaly.models.training import train

    class Stopping:
        def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
            if done == 13:
                raise KeyboardInterrupt

    def run(folder: Path, progress: Silent | Stopping) -> Snapshots:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        network, snapshots = torch.nn.Linear(2, 1), Snapshots(folder)
        rest = {"steps": 30, "learning_rate": 0.1, "seed": 0, "checkpoints": snapshots, "progress": progress}
        train(network, lambda _: network(torch.ones(1, 2)).square().sum(), stage="contrastive", **rest)
        return snapshots

    whole = run(tmp_path / "whole", Silent()).taken
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stopping())
    for _ in ("half done", "done"):
        again = run(tmp_path / "stopped", Silent()).taken
        assert list(again) == list(whole)
        assert all(torch.equal(again[step]["weight"], whole[step]["weight"]) for step in whole)


def test_a_study_recommends_and_goes_on_where_it_stopped(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(product / "train/good", "photos")
    names = sorted(path.name for path in Path("photos").iterdir())
    rows = [f"photos/{name},train,normal,lot{i // 5}" for i, name in enumerate(names)]
    Path("lots.csv").write_text("\n".join(["path,split,label,group", *rows]))
    arguments = (
        "study", "lots.csv", "--out", "s", "--strengths", "0", "--sizes", "8", "--seeds", 1,
        "--set", "contrastive.augmentation_strength=0.6", "--set", "contrastive.embedding_size=8",
        "--photos", 2, "--magnitudes", 2, "--probes", "spot,grain", "--workers", 1, "--json", *SMALL,
    )  # fmt: skip
    code, stdout, stderr = run(capfd, *arguments)
    assert code == 0, stderr
    found = json.loads(stdout)
    assert found["recommended"]["embedding_size"] == 8 and len(found["cells"]) == 2
    assert all(0 <= one["suppression_index"] <= 1 for one in found["cells"])
    assert {"uniformity", "effective_rank", "score_in_top_subspace"} <= set(found["cells"][0]["diagnostics"])
    assert "alignment" in found["cells"][1]["diagnostics"]
    course = found["cells"][0]["diagnostics"]["group_accuracy"]
    assert list(course["by_step"]) == ["1", "2", "4", "5"]
    assert all(0 <= value <= 1 for value in course["by_step"].values()) and "chance" in course["reading"]
    assert found["cells"][0]["held_out"] == 5  # one whole lot
    written = yaml.safe_load(Path("s/config.yaml").read_text())
    assert written["contrastive"]["augmentation_strength"] == found["recommended"]["augmentation_strength"]
    assert RunConfig.load(Path("s/config.yaml")).contrastive.embedding_size == 8
    page = Path("s/report.html").read_text()
    assert "suppression index" in page and "2, 1 of them of lots trained on" in page
    assert page.count(">strength 0<") == page.count(">strength 0.6<") == 1 and ">8 dimensions<" in page
    assert not Path("s/shared").exists()

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri="sqlite:///mlflow.db")
    parent = client.get_run(found["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["suppression_index"] == found["suppression_index"]
    nested = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{found['mlflow_run_id']}'"
    )
    assert {one.data.params["augmentation_strength"] for one in nested} == {"0.0", "0.6"}
    assert all("visibility.fused.spot" in one.data.metrics for one in nested)

    code, _, stderr = run(capfd, *arguments)
    assert code == 3 and "already holds report.html" in stderr
    kept, lost = sorted(Path("s/cells").glob("*.json"))
    lost.unlink()
    for name in ("report.html", "result.json"):
        Path("s", name).unlink()
    before = kept.stat().st_mtime_ns
    code, stdout, stderr = run(capfd, *arguments)
    assert code == 0, stderr
    assert "going on: 1 of 2 cells are done" in stderr
    again = json.loads(stdout)
    assert kept.stat().st_mtime_ns == before and lost.exists()
    assert again["mlflow_run_id"] == found["mlflow_run_id"]
    assert [one["suppression_index"] for one in again["cells"]] == [
        one["suppression_index"] for one in found["cells"]
    ]
    for name in ("report.html", "result.json"):
        Path("s", name).unlink()
    code, _, stderr = run(capfd, *arguments, "--set", "image.image_size=64")
    assert code == 2 and "holds a study of other photos, probes or settings" in stderr


def test_mistakes_are_told_before_anything_is_trained(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for photo in sorted((product / "train/good").iterdir())[:20]:
        shutil.copy(photo, few)
    for arguments, code, sentence in (
        ((few, "--out", tmp_path / "s"), 3, "needs 42 good photos to fit, calibrate and probe, got 20"),
        ((product, "--out", tmp_path / "s", "--sizes", "8,x"), 2, "--sizes takes numbers"),
        ((product, "--out", tmp_path / "s", "--sizes", "8.5"), 2, "--sizes takes whole numbers"),
        ((product, "--out", tmp_path / "s", "--strengths", "2"), 2, "augmentation_strength"),
        ((product, "--out", tmp_path / "s", "--supervised-weights", "0,2"), 2, "supervised_weight"),
    ):
        got, _, stderr = run(capfd, "study", *arguments)
        assert got == code and sentence in stderr, stderr


def test_the_documented_commands_run(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As written, but for less training and a smaller grid."""
    page = (Path(__file__).parent.parent / "docs/study.md").read_text()
    block = re.search(r"```\n(.*?)```", page, re.S).group(1)
    less = {
        "study": (
            *SMALL,
            *("--strengths", 0.3, "--sizes", 8, "--set", "contrastive.embedding_size=8", "--seeds", 1),
            *("--photos", 2, "--probes", "spot", "--workers", 1),
        ),
        "fit": (),
    }
    monkeypatch.chdir(tmp_path)
    shutil.copytree(product / "train/good", "photos/good")
    for line in block.splitlines():
        words = line.split()
        code, _, stderr = run(capfd, *words[1:], *less[words[1]], *(("--set", "tracking.enabled=false")))
        assert code == 0, stderr
    assert read_manifest(Path("models/cap"))["config"]["contrastive"]["embedding_size"] == 8


@pytest.mark.slow
def test_cells_in_processes_find_what_cells_in_turn_find(product: Path, tmp_path: Path) -> None:
    from anomaly.study.run import Effort, study

    config = RunConfig.load(None, list(QUICK))
    cells = grid(config, [0.1, 0.6], [8, 16], [0.1], [0], 1)
    effort = Effort(probed=2, magnitudes=2, probes=("spot", "grain"))
    alone = study(product, tmp_path / "one", config, cells, effort, workers=1)
    together = study(product, tmp_path / "two", config, cells, effort, workers=2)
    for one, other in zip(alone.results, together.results, strict=True):
        assert one["cell"] == other["cell"]
        assert one["suppression_index"] == pytest.approx(other["suppression_index"], abs=1e-6)
        assert one["visibility"] == pytest.approx(other["visibility"], abs=1e-6)


@pytest.mark.slow
def test_a_fit_chooses_its_dials_itself(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomaly.bundle import read_bundle
    from anomaly.fitting.run import fit
    from anomaly.study import auto

    monkeypatch.setattr(auto, "STRENGTHS", (0.6,))
    monkeypatch.setattr(auto, "SIZES", (8,))
    said: list[str] = []
    config = RunConfig.load(None, [*QUICK, "dials=auto"])
    with pytest.raises(KeyboardInterrupt):
        fit(product, tmp_path / "m", config, say=said.append, progress=StopIn("reconstruction", 1))
    monkeypatch.setattr(auto, "run_all", None)  # what was chosen is not asked again
    fit(product, tmp_path / "m", config, say=said.append, resume=True)
    bundle = read_bundle(tmp_path / "m")
    chosen = bundle.manifest["dials"]
    assert chosen["cells"] == 4 and chosen["reason"] in "".join(said)
    contrastive = bundle.detector.config.contrastive
    assert contrastive.embedding_size == chosen["embedding_size"]
    assert contrastive.augmentation_strength == chosen["augmentation_strength"]
    assert np.isfinite(bundle.detector.calibration.threshold)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_cells_on_a_ray_cluster_find_what_cells_in_turn_find(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster is started beforehand, as a plant's would be, and stays."""
    pytest.importorskip("ray", reason="pip install 'anomaly[ray]'")
    here = str(Path(__file__).parent.parent)
    open_ = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}  # newer ones ask for a token
    environment = {**os.environ, **open_, "PYTHONPATH": here}
    program = (
        "import os, sys, time, ray\n"
        "node = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        "print(node.address_info['gcs_address'], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        assert address
        arguments = (
            "--strengths", "0.1,0.6", "--sizes", "8", "--seeds", "1", "--photos", "2", "--magnitudes", "2",
            "--probes", "spot,grain", "--workers", "1", "--json", *SMALL, "--set", "tracking.enabled=false",
        )  # fmt: skip
        found = []
        for name, ray in (("one", {}), ("two", {"RAY_ADDRESS": address})):
            done = subprocess.run(
                [sys.executable, "-m", "anomaly", "study", product, "--out", tmp_path / name, *arguments],
                env=environment | ray,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            assert ("on the Ray cluster" in done.stderr) == bool(ray)
            found.append(json.loads(done.stdout)["cells"])
        cluster.communicate("")
    for alone, together in zip(*found, strict=True):
        assert alone["cell"] == together["cell"]
        assert alone["suppression_index"] == pytest.approx(together["suppression_index"], abs=1e-6)
