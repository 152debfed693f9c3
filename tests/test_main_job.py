"""Good photos in, judged photos out: the promises of a fitted model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import resign
from conftest import AS_FITTED, QUICK, SPOT, StopIn, draw_photo

from anomaly.bundle import FORMAT, MANIFEST, read_bundle, write_bundle
from anomaly.config import RunConfig
from anomaly.data.layouts import read_samples
from anomaly.errors import BundleError, CalibrationError, ConfigError, DataError
from anomaly.evaluation import evaluate
from anomaly.fitting.run import fit
from anomaly.inspection.inputs import expand
from anomaly.inspection.stream import judge, judge_all


def test_it_finds_the_defect_and_where(model: Path, product: Path) -> None:
    metrics = evaluate(read_bundle(model), read_samples(product))
    assert metrics["image_auroc"] == 1.0
    assert metrics["pixel_auroc"] > 0.9
    assert metrics["aupro_0.3"] > 0.5
    assert metrics["escape_rate"] == 0.0
    assert metrics["per_defect_type"]["spot"]["n"] == 6
    assert set(metrics["branches"]) == {"reconstruction", "embedding", "coarse", "texture"}
    json.dumps(metrics)


def test_a_defect_lights_its_place_whatever_the_size(model: Path, tmp_path: Path) -> None:
    detector = read_bundle(model).detector
    photo = draw_photo(np.random.default_rng(3), bad=True)
    for name, scale in (("same", 1), ("larger", 3)):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
        judged = judge(detector, path)
        assert judged.verdict.decision == "anomalous"
        top, left, bottom, right = judged.verdict.regions[0].box
        assert top <= SPOT[0] * scale < bottom and left <= SPOT[1] * scale < right
        at_spot = judged.anomaly_map[SPOT[0] * scale, SPOT[1] * scale]
        far_away = judged.anomaly_map[: 30 * scale, 100 * scale :]
        assert at_spot > 0.85 * judged.anomaly_map.max()
        assert at_spot > 2 * far_away.max()


def test_a_photo_scores_the_same_alone_in_any_order_and_any_time(model: Path, product: Path) -> None:
    detector = read_bundle(model).detector
    photos = expand(product / "test")
    together = {j.verdict.path: j.verdict.image_score for j in judge_all(detector, photos)}
    backwards = {j.verdict.path: j.verdict.image_score for j in judge_all(detector, photos[::-1])}
    assert together == backwards
    assert all(judge(detector, Path(path)).verdict.image_score == s for path, s in together.items())


def test_calibration_photos_were_not_trained_on(model: Path) -> None:
    bundle = read_bundle(model)
    held_out = {photo["sha256"] for photo in bundle.calibration_photos}
    data = bundle.manifest["data"]
    assert len(held_out) == data["n_calibration"] >= 19
    assert data["n_train"] + data["n_calibration"] == len(data["sha256"]) == 45


@pytest.mark.slow
def test_a_few_real_defects_supervise_the_encoder_and_are_no_test_photos(
    product: Path, model: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(product, tmp_path / "set"))
    rows = ["path,split,label,mask"]
    rows += [f"train/good/{path.name},train,normal," for path in sorted((own / "train/good").iterdir())]
    rows += [f"test/spot/{i:03d}.png,train,anomalous,ground_truth/spot/{i:03d}_mask.png" for i in range(3)]
    (own / "test/spot/002.png").write_bytes(b"torn")
    manifest = own / "defects.csv"
    manifest.write_text("\n".join(rows))
    joint = RunConfig.load(None, [*QUICK, "contrastive.supervised_weight=0.5"])
    told: list[str] = []
    bundle = fit(manifest, tmp_path / "joint", joint, say=told.append).bundle
    assert "the encoder learns from 3 defective training photos as well" in told
    data = bundle.manifest["data"]
    assert list(data["skipped"]) == [str(own / "test/spot/002.png")]
    assert any("1 training photos could not be read and were left out" in text for text in told)
    assert data["n_defects"] == 2 and data["n_train"] + data["n_calibration"] == 45
    with pytest.raises(DataError, match="was used to fit this model"):
        evaluate(bundle, read_samples(product))
    synthetic = fit(product, tmp_path / "drawn", joint).bundle.detector
    weights = [d.encoder.projection.correction.weight for d in (bundle.detector, synthetic)]
    assert not weights[0].equal(weights[1]), "real defects change what is learnt"

    fit(manifest, tmp_path / "without", RunConfig.load(None, list(QUICK)), say=told.append)
    assert "defective training photos are left alone" in told[-1]
    assert read_bundle(tmp_path / "without").manifest["data"]["n_defects"] == 0

    cv2.imwrite(str(own / "ground_truth/spot/001_mask.png"), np.zeros((96, 128), np.uint8))
    with pytest.raises(DataError, match=r"001\.png has an empty mask: supervised_weight needs"):
        fit(manifest, tmp_path / "blind", joint)


def test_the_same_seed_gives_the_same_model(product: Path, model: Path, tmp_path: Path) -> None:
    again = fit(product, tmp_path / "again", RunConfig.load(None, list(AS_FITTED))).bundle
    first = read_bundle(model)
    assert again.manifest["files"] | {"calibration.json": ""} == first.manifest["files"] | {
        "calibration.json": ""
    }
    assert again.detector.calibration.threshold == first.detector.calibration.threshold


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(("contrastive", 3), marks=pytest.mark.slow),
        ("reconstruction", 11),
        pytest.param(("picture", 2), marks=pytest.mark.slow),
        ("calibration", 4),
    ],
    ids=str,
)
def test_an_interrupted_fit_resumes_to_the_same_model(
    product: Path, model: Path, tmp_path: Path, stage: tuple[str, int]
) -> None:
    out, config = tmp_path / "model", RunConfig.load(None, list(AS_FITTED))
    with pytest.raises(KeyboardInterrupt):
        fit(product, out, config, progress=StopIn(*stage))
    assert not out.exists()
    with pytest.raises(ConfigError, match="go on with --resume"):
        fit(product, out, config)
    with pytest.raises(ConfigError, match="begun with other photos or another configuration"):
        fit(product, out, RunConfig.load(None, [*QUICK, "seed=1"]), resume=True)
    resumed = fit(product, out, config, resume=True)
    assert resumed.bundle.manifest["files"] == read_bundle(model).manifest["files"]
    assert not out.with_name("model.partial").exists()


def test_a_model_is_not_overwritten_unasked(product: Path, model: Path) -> None:
    with pytest.raises(ConfigError, match="--overwrite"):
        fit(product, model, RunConfig.load(None, list(QUICK)))


def test_a_folder_that_is_no_model_is_never_overwritten(product: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is not a model"):
        fit(product, tmp_path / "photos", RunConfig.load(None, list(QUICK)), overwrite=True)
    assert (tmp_path / "photos" / "mine.txt").read_text() == "keep"


def test_a_model_needs_a_folder_of_its_own(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(ConfigError, match="is a file: give another --out"):
        fit(product, tmp_path / "file", RunConfig.load(None, list(QUICK)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a folder of its own"):
        fit(product, Path("."), RunConfig.load(None, list(QUICK)), overwrite=True)


def test_what_an_interruption_left_of_an_overwritten_model_is_no_hindrance(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.old").mkdir()
    (tmp_path / "m.old" / "left").write_text("over")
    (tmp_path / "m").mkdir()
    found = read_bundle(model)
    rows, maps = found.calibration_photos, found.calibration_maps
    write_bundle(tmp_path / "m", found.detector, {}, rows, maps, [])
    assert read_bundle(tmp_path / "m").calibration_photos == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_other_photos_under_the_same_names_are_other_photos(product: Path, tmp_path: Path) -> None:
    config, folder = RunConfig.load(None, list(QUICK)), tmp_path / "photos"
    shutil.copytree(product / "train/good", folder)
    with pytest.raises(KeyboardInterrupt):
        fit(folder, tmp_path / "m", config, progress=StopIn("contrastive", 1))
    photo = next(iter(sorted(folder.iterdir())))
    data = bytearray(photo.read_bytes())
    data[-1] ^= 1
    photo.write_bytes(data)
    with pytest.raises(ConfigError, match="begun with other photos"):
        fit(folder, tmp_path / "m", config, resume=True)


def test_too_few_photos_says_how_many(product: Path, tmp_path: Path) -> None:
    strict = RunConfig.load(None, [*QUICK, "calibration.target_fpr=0.01"])
    with pytest.raises(
        CalibrationError, match=r"target_fpr 0\.01 needs at least 99 calibration photos, got 22"
    ):
        fit(product, tmp_path / "m", strict)


def test_identical_and_single_photos_are_named(tmp_path: Path) -> None:
    photo = draw_photo(np.random.default_rng(0))
    folder = tmp_path / "same"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), photo)
    with pytest.raises(DataError, match="got 1 that can be read"):
        fit(folder, tmp_path / "one", RunConfig.load(None, list(QUICK)))
    for i in range(1, 45):
        cv2.imwrite(str(folder / f"{i}.png"), photo)
    with pytest.raises(DataError, match="same photo"):
        fit(folder, tmp_path / "all", RunConfig.load(None, list(QUICK)))


def test_a_broken_training_photo_is_left_out_and_named(product: Path, tmp_path: Path) -> None:
    shutil.copytree(product / "train/good", tmp_path / "good")
    (tmp_path / "good" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    said: list[str] = []
    fitted = fit(tmp_path / "good", tmp_path / "m", RunConfig.load(None, list(QUICK)), say=said.append)
    assert list(fitted.bundle.manifest["data"]["skipped"]) == [str(tmp_path / "good" / "torn.png")]
    assert any("left out" in sentence and "torn.png" in sentence for sentence in said)


def test_test_photos_that_were_trained_on_are_refused(model: Path, product: Path, tmp_path: Path) -> None:
    leaky = tmp_path / "leaky"
    shutil.copytree(product, leaky)
    shutil.copy(leaky / "train/good/004.png", leaky / "test/good/004_copy.png")
    with pytest.raises(DataError, match="was used to fit this model"):
        evaluate(read_bundle(model), read_samples(leaky))


def test_one_photo_of_another_size_in_colour_depth_or_shape_is_judged(model: Path, tmp_path: Path) -> None:
    detector = read_bundle(model).detector
    rng = np.random.default_rng(0)
    for name, photo in {
        "deep": (rng.random((50, 70)) * 65535).astype(np.uint16),
        "dot": np.zeros((1, 1), np.uint8),
        "strip": np.zeros((3, 900, 3), np.uint8),
    }.items():
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), photo)
        judged = judge(detector, path)
        assert judged.verdict.decision in ("normal", "anomalous")
        assert judged.anomaly_map.shape == photo.shape[:2]


@pytest.mark.parametrize("name", ["encoder.safetensors", "calibration.json", "reference/0.png", MANIFEST])
def test_a_changed_byte_anywhere_is_noticed(model: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=r"changed after it was written|cannot be read|not the manifest"):
        read_bundle(copy)


def test_missing_newer_and_foreign_bundles_are_named(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    (copy / "statistics.safetensors").unlink()
    with pytest.raises(BundleError, match=r"statistics\.safetensors cannot be read"):
        read_bundle(copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(BundleError, match=f"format 99, this program reads up to {FORMAT}: upgrade"):
        read_bundle(copy)
    (copy / MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(BundleError, match=r"fitted by an earlier version .* fit it again"):
        read_bundle(copy)
    with pytest.raises(BundleError, match="is not a model"):
        read_bundle(tmp_path)


def test_a_model_from_before_a_branch_was_added_is_read_without_it(product: Path, tmp_path: Path) -> None:
    settings = [*QUICK, "backbone=none", "contrastive.backbone_steps=2", "scorers.eigenimages=null"]
    fitted = fit(product, tmp_path / "m", RunConfig.load(None, settings))
    manifest = json.loads((tmp_path / "m" / MANIFEST).read_text())
    del manifest["config"]["scorers"]["eigenimages"]
    resign(tmp_path / "m", manifest)
    again = read_bundle(tmp_path / "m").detector
    assert list(again.scorers) == list(fitted.bundle.detector.scorers)
    assert "eigenimages" not in again.scorers


def test_a_bundle_holds_data_only(model: Path) -> None:
    kinds = {path.suffix for path in model.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".png"}


def test_nothing_pretrained_is_needed(product: Path, tmp_path: Path) -> None:
    config = RunConfig.load(None, [*QUICK, "backbone=none", "contrastive.backbone_steps=4"])
    fitted = fit(product, tmp_path / "m", config)
    assert fitted.bundle.manifest["backbone"] == "none"
    assert len(fitted.result.losses["backbone"]) == 4
    photo = fitted.bundle.detector.read(product / "test/spot/000.png")
    assert np.isfinite(fitted.bundle.detector.score(photo).image_score)


def test_a_fit_on_test_photos_alone_is_refused_and_leaves_nothing(product: Path, tmp_path: Path) -> None:
    shutil.copytree(product / "test", tmp_path / "data/test")
    with pytest.raises(DataError, match=r"has no good training photos.*put some in train/good"):
        fit(tmp_path / "data", tmp_path / "model", RunConfig.load(None, QUICK))
    assert [one.name for one in tmp_path.iterdir()] == ["data"]


def test_of_many_good_photos_some_evenly_spread_are_used(product: Path, tmp_path: Path) -> None:
    told: list[str] = []
    config = RunConfig.load(None, [*QUICK, "data.most_photos=42"])
    result = fit(product, tmp_path / "model", config, say=told.append).result
    used = sorted(int(one.path.stem) for one in [*result.train, *result.calibration])
    assert len(used) == 42 and used[0] == 0 and used[-1] == 44
    assert "42 of the good photos are used, evenly spread (data.most_photos)" in told
    whole = RunConfig.load(None, [*QUICK, "data.most_photos=45"])
    fit(product, tmp_path / "whole", whole, say=told.append)
    assert sum("evenly spread" in sentence for sentence in told) == 1
    few = RunConfig.load(None, [*QUICK, "data.most_photos=12"])
    with pytest.raises(CalibrationError, match=r"here are 12, and data\.most_photos=12 uses no more"):
        fit(product, tmp_path / "few", few)
