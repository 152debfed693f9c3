"""`anomaly compare` as its user meets it."""

import json
import shutil

import cv2
import numpy as np
import pytest
from conftest import QUICK, draw_photo
from test_commands import run
from test_report import Page

from anomaly.config import RunConfig
from anomaly.fitting.run import fit
from anomaly.metrics import image_auroc
from anomaly.quality.paired import mcnemar_test


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model of larger photos of the plate, whose light varies much: it sees less."""
    root = tmp_path_factory.mktemp("other")
    rng = np.random.default_rng(5)
    (root / "good").mkdir()
    for i in range(40):
        photo = draw_photo(rng).astype(float) + rng.normal(0, 25)
        large = cv2.resize(np.clip(photo, 0, 255).astype(np.uint8), None, fx=1.5, fy=1.5)
        cv2.imwrite(str(root / f"good/{i:02d}.png"), large)
    fit(root / "good", root / "model", RunConfig.load(None, [*QUICK, "scorers.reconstruction=null"]))
    return root / "model"


@pytest.fixture(scope="module")
def labelled(product, tmp_path_factory):
    """Plain spots, faint ones, and normal photos, some dark, of four lots."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(23)
    rows = ["path,split,label,defect_type,group"]
    for i in range(24):
        bad, lot = i % 2 == 1, "ABCD"[i % 4 // 2 + 2 * (i >= 12)]
        photo = draw_photo(rng, bad=bad and i % 3 > 0).astype(float)
        if bad and i % 3 == 0:
            photo[60:80, 30:50] += 6
        if not bad and i % 3 == 0:
            photo -= 25
        cv2.imwrite(str(root / f"{i:02d}.png"), np.clip(photo, 0, 255).astype(np.uint8))
        rows.append(f"{i:02d}.png,test,{'bad' if bad else 'good'},{'spot' if bad else ''},{lot}")
    (root / "photos.csv").write_text("\n".join(rows))
    return root / "photos.csv"


def compare(capfd, a, b, data, out, *options):
    return run(capfd, "compare", a, b, data, "--out", out, *options)


def test_two_models_are_compared_and_the_photos_they_differ_on_are_drawn(
    capfd, model, other, labelled, tmp_path
):
    code, stdout, stderr = compare(capfd, model, other, labelled, tmp_path / "out", "--json")
    assert code == 0, stderr
    told = json.loads(stdout)
    assert told == json.loads((tmp_path / "out/result.json").read_text())
    photos = told["photos"]
    labels = [p["label"] == "anomalous" for p in photos]
    for side, name in enumerate(("auroc_a", "auroc_b")):
        expected = image_auroc([p["scores"][side] for p in photos], labels)
        assert told["bootstrap"][name] == pytest.approx(expected)
        threshold = told["models"]["ab"[side]]["threshold"]
        assert [p["called"][side] for p in photos] == [p["scores"][side] > threshold for p in photos]
    calls = np.array([p["called"] for p in photos])
    groups = [p["group"] for p in photos]
    by_group = mcnemar_test(calls[:, 0], calls[:, 1], labels, groups)
    assert told["decisions"]["p_value"] == by_group.p_value
    assert by_group.p_value > mcnemar_test(calls[:, 0], calls[:, 1], labels).p_value
    for side in ("interval_a", "interval_b"):
        low, high = told["bootstrap"][side]
        assert 0 <= low < high <= 1
    assert told["grouped"] and "4 groups" in told["notes"][0]
    differ = int((calls[:, 0] != calls[:, 1]).sum())
    assert differ > 0
    page = Page((tmp_path / "out/report.html").read_text())
    assert page.tags().count("img") == 3 * differ
    for word in (
        "by whole groups",
        "bootstrap by group",
        "McNemar",
        "A alone is right on",
        "Model B:",
        "Signatures",
    ):
        assert word in page.text


def test_a_model_against_itself_is_no_difference(capfd, model, labelled, tmp_path):
    code, stdout, stderr = compare(capfd, model, model, labelled, tmp_path)
    assert code == 0, stderr
    assert "no difference" in stdout and "both decide alike on every photo" in stdout
    assert "A and B are the same model" in stderr


def test_one_class_compares_decisions_alone(capfd, model, other, labelled, tmp_path):
    lines = labelled.read_text().splitlines()
    only = labelled.with_name("normal.csv")
    only.write_text("\n".join([lines[0], *(line for line in lines if ",good," in line)]))
    code, stdout, stderr = compare(capfd, model, other, only, tmp_path)
    assert code == 0, stderr
    assert "cannot tell which model ranks defects better" in stdout
    assert "AUROC is not compared: " in stderr


def test_photos_of_either_fit_are_refused_and_unreadable_ones_named(capfd, model, other, labelled, tmp_path):
    data = shutil.copytree(labelled.parent, tmp_path / "data")
    (data / "03.png").write_bytes(b"broken")
    code, stdout, stderr = compare(capfd, model, other, data / "photos.csv", tmp_path / "a", "--json")
    assert code == 0, stderr
    assert [path.rpartition("/")[2] for path in json.loads(stdout)["left_out"]] == ["03.png"]
    shutil.copy(other.parent / "good/00.png", data / "04.png")
    for pair in ((model, other), (other, model)):
        code, _, stderr = compare(capfd, *pair, data / "photos.csv", tmp_path / "b")
        assert code == 3 and "was used to fit this model" in stderr
    code, _, stderr = compare(capfd, model, tmp_path, labelled, tmp_path / "b")
    assert code == 4 and "is not a model" in stderr
