"""`anomaly pod` as its user meets it, and the sizes that it takes from masks."""

import json
import re
import shutil
from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import SPOT, draw_photo
from test_commands import run
from test_report import Page

from anomaly.appraisal.pod.report import answer, lines
from anomaly.appraisal.pod.study import Options
from anomaly.appraisal.sizes import defect_size
from anomaly.report import DASH


def blank(size=(60, 80)):
    return np.zeros(size, bool)


def test_sizes_of_drawn_masks():
    line = blank()
    line[10, 5:45] = True
    assert defect_size(line, "length") == 40
    assert defect_size(line, "root-area") == pytest.approx(40**0.5)
    diagonal = np.eye(30, dtype=bool)
    assert defect_size(diagonal, "length") == pytest.approx(29 * 2**0.5 + 1)
    dot = blank()
    dot[3, 3] = True
    assert defect_size(dot, "length") == defect_size(dot, "root-area") == 1
    assert defect_size(blank(), "length") is None


def test_the_largest_connected_area_counts_by_the_measure_asked_for():
    mask = blank()
    mask[5, 5:35] = True  # 30 long, area 30
    mask[20:30, 5:15] = True  # 10 x 10, area 100
    assert defect_size(mask, "length") == 30
    assert defect_size(mask, "root-area") == 10
    ring = np.zeros((60, 80), np.uint8)
    cv2.circle(ring, (40, 30), 20, 1, 2)
    assert defect_size(ring.astype(bool), "length") == pytest.approx(42, abs=2)


@pytest.fixture(scope="module")
def graded(product, tmp_path_factory):
    """Test photos whose defects grow from invisible to plain, of two types, and blanks."""
    root = tmp_path_factory.mktemp("graded")
    (root / "train/good").mkdir(parents=True)
    shutil.copytree(product / "test/good", root / "test/good")
    rng = np.random.default_rng(11)
    for kind, count in (("spot", 16), ("speck", 1)):
        (root / "test" / kind).mkdir()
        (root / "ground_truth" / kind).mkdir(parents=True)
        for i in range(count):
            photo = draw_photo(rng)
            mask = np.zeros((96, 128), np.uint8)
            radius = round(2 * 1.13**i)
            cv2.circle(mask, (SPOT[1], SPOT[0]), radius, 255, -1)
            photo[mask > 0] = np.clip(photo[mask > 0].astype(int) + 9 * (i % 4) * i, 0, 255)
            cv2.imwrite(str(root / f"test/{kind}/{i:03d}.png"), photo)
            cv2.imwrite(str(root / f"ground_truth/{kind}/{i:03d}.png"), mask)
    return root


def pod(capfd, data, model, out, *options):
    return run(capfd, "pod", data, "--model", model, "--out", out, *options)


def test_curves_of_real_masks_are_filed(capfd, graded, model, tmp_path):
    code, stdout, stderr = pod(capfd, graded, model, tmp_path / "pod", "--json", "--px-per-mm", "4")
    assert code == 0, stderr
    told = json.loads(stdout)
    assert told == json.loads((tmp_path / "pod/result.json").read_text())
    assert set(told["types"]) == {"all types", "spot", "speck"}
    assert told["blanks"] == 6 and told["types"]["all types"]["defects"] == 17
    by_path = {d["path"].rpartition("test/")[2]: d for d in told["defects"]}
    largest = by_path["spot/015.png"]
    assert largest["size_px"] == 2 * round(2 * 1.13**15) + 1 and largest["found"]
    assert all(d["found"] == (d["score"] > told["threshold"]) for d in told["defects"])
    assert not all(by_path[f"spot/{i:03d}.png"]["found"] for i in (0, 4, 8, 12))
    spot = told["types"]["spot"]
    assert spot["a50_mm"] == pytest.approx(spot["a50_px"] / 4)
    assert len(spot["curve"]) == 21 and all(p["lower"] <= p["pod"] <= p["upper"] for p in spot["curve"])
    assert "all defects have one size" in told["types"]["speck"]["warnings"][0]
    page = Page((tmp_path / "pod/report.html").read_text())
    assert f"{len(told['defects'])} defects found" in page.text
    for word in ("a90/95 mm", "MIL-HDBK-1823A", "Fitted: logit", "Signatures", "Result: spot", "missed"):
        assert word in page.text
    assert page.tags().count("circle") == 2 * 17 - 1


def test_defects_of_one_size_get_a_sentence_and_an_earlier_report_is_kept(capfd, product, model, tmp_path):
    code, stdout, stderr = pod(capfd, product, model, tmp_path, "--size", "root-area", "--link", "probit")
    assert code == 0, stderr
    assert stdout.startswith("These data show no size from which defects are found with 90 % probability")
    assert re.search(rf"spot: 6 of 6 found, a50 {DASH}, a90 {DASH}, a90/95 {DASH}\n", stdout)
    assert f"report: {tmp_path / 'report.html'}" in stderr
    told = json.loads((tmp_path / "result.json").read_text())
    assert "all defects have one size" in told["types"]["spot"]["warnings"][0]
    assert told["defects"][0]["size_px"] == pytest.approx(np.pi**0.5 * 7, rel=0.05)
    code, _, stderr = pod(capfd, product, model, tmp_path)
    assert code == 3 and "already holds report.html" in stderr


@pytest.fixture
def copy(graded, tmp_path):
    shutil.copytree(graded, tmp_path / "data")
    return tmp_path / "data"


def test_photos_that_cannot_count_are_named(capfd, copy, model, tmp_path):
    masks = sorted((copy / "ground_truth/spot").iterdir())
    cv2.imwrite(str(masks[3]), np.zeros((96, 128), np.uint8))
    cv2.imwrite(str(masks[4]), np.zeros((10, 10), np.uint8))
    masks[5].unlink()
    (copy / "test/spot/006.png").write_bytes(b"broken")
    shutil.rmtree(copy / "test/good")
    code, stdout, stderr = pod(capfd, copy, model, tmp_path / "out", "--json")
    assert code == 0, stderr
    told = json.loads(stdout)
    why = {path.rpartition("/")[2]: reason for path, reason in told["left_out"].items()}
    assert set(why) == {"003.png", "004.png", "005.png", "006.png"}
    assert "marks no pixel" in why["003.png"] and "give a mask of the photo's size" in why["004.png"]
    assert "no mask" in why["005.png"]
    assert told["false_call_rate"] is None and "no readable normal photo" in told["notes"][0]


def test_without_masks_or_with_photos_of_the_fit_it_is_refused(capfd, copy, product, model, tmp_path):
    shutil.copy(product / "train/good/000.png", copy / "test/good/seen.png")
    code, _, stderr = pod(capfd, copy, model, tmp_path / "a")
    assert code == 3 and "was used to fit this model" in stderr
    (copy / "test/good/seen.png").unlink()
    shutil.rmtree(copy / "ground_truth")
    code, _, stderr = pod(capfd, copy, model, tmp_path / "a")
    assert code == 3 and "no defective test photo has a mask" in stderr
    code, _, stderr = pod(capfd, copy, model, tmp_path / "a", "--px-per-mm", "0")
    assert code == 2 and "px-per-mm must be a number above 0" in stderr


def curve(name, a90_95, largest, found=5):
    fit = SimpleNamespace(a90_95=a90_95, found=found, defects=9) if a90_95 or found == 9 else None
    return SimpleNamespace(name=name, fit=fit, sizes=np.array([1.0, largest]))


def test_the_answer_never_promises_beyond_the_sizes_that_were_tested():
    def said(*curves, **options):
        return answer(SimpleNamespace(options=Options(**options), curves=curves))

    shown = said(curve("all", 41.0, 60), curve("dent", 70.0, 60), curve("chip", 8.0, 60), px_per_mm=10.0)
    assert "Defects of 4.1 mm or more are found" in shown and "95% confidence" in shown
    assert shown.endswith("By themselves, these types show no such size: dent.")
    for pooled in (curve("all", 61.0, 60), curve("all", None, 60)):
        shown = said(pooled, curve("dent", None, 60), curve("chip", 8.0, 60))
        assert shown.startswith("These data show no size") and "the largest has 60 px" in shown
        assert shown.endswith("By themselves: chip from 8 px.")
    assert "all 9 were found, the smallest of 1 px too" in said(curve("all", None, 60, found=9))


def test_the_terminal_keeps_to_one_unit_and_explains_an_asterisk():
    def told(a90_95, **options):
        fit = SimpleNamespace(a50=None, a90=12.0, a90_95=a90_95)
        curve = SimpleNamespace(name="dent", fit=fit, found=8, trials=[0] * 9, sizes=np.array([1.0, 60.0]))
        return lines(SimpleNamespace(options=Options(**options), curves=[curve]))

    assert told(40.0) == [f"  dent: 8 of 9 found, a50 {DASH}, a90 12 px, a90/95 40 px"]
    assert told(80.0, px_per_mm=10.0) == [
        f"  dent: 8 of 9 found, a50 {DASH}, a90 1.2 mm, a90/95 8* mm",
        "  * lies outside the sizes of the defects and is extrapolated.",
    ]


def test_drawn_defects_are_graded_by_size_and_contrast(capfd, product, model, tmp_path):
    held_out = product / "test/good"
    arguments = ("--synthetic", "spot", "--synthetic", "mirror", "--contrast", "5", "--contrast", "120")
    code, stdout, stderr = pod(capfd, held_out, model, tmp_path / "a", *arguments, "--defects", "5", "--json")
    assert code == 0, stderr
    told = json.loads(stdout)
    kinds = {"spot of 5 grey levels", "spot of 120 grey levels", "mirror"}
    assert set(told["types"]) == {"all types"} | kinds
    assert told["blanks"] == 6 and "drawn on 6 photos" not in "".join(told["notes"])
    sizes = {kind: [d["size_px"] for d in told["defects"] if d["type"] == kind] for kind in kinds}
    strong = sorted(sizes["spot of 120 grey levels"])
    assert strong[0] == pytest.approx(4, abs=2.5) and strong[-1] == pytest.approx(40, abs=8)
    assert all(low * 1.1 < high for low, high in pairwise(strong))
    found = [told["types"][f"spot of {level} grey levels"]["found"] for level in (5, 120)]
    assert found[0] < found[1]
    mirrored = pod(
        capfd, held_out, model, tmp_path / "b", "--synthetic", "mirror", "--defects", "5", "--json"
    )[1]
    again = json.loads(mirrored)["defects"]
    assert again == [d for d in told["defects"] if d["type"] == "mirror"]
    page = Page((tmp_path / "a/report.html").read_text())
    assert "Drawn defects show which changes of a photo the model sees" in page.text


def test_what_cannot_be_drawn_is_refused_in_a_sentence(capfd, product, model, tmp_path):
    good = product / "test/good"
    for data, options, code, sentence in (
        (good, ("--synthetic", "spott"), 2, "did you mean 'spot'?"),
        (good, ("--synthetic", "brighten"), 2, "has no size: choose from"),
        (good, ("--confidence", "95"), 2, "a share is such as 1% or 0.01, above 0 and below 100%, got '95'"),
        (good, ("--confidence", "40%"), 2, "confidence must lie between 0.5 and 1, got 0.4"),
        (good, ("--contrast", "9"), 2, "--contrast is for drawn defects"),
        (good, ("--synthetic", "spot", "--contrast", "-1"), 2, "give more than 0 grey levels"),
        (good, ("--synthetic", "spot", "--defects", "1"), 2, "show no curve"),
        (product / "train/good", ("--synthetic", "spot"), 3, "was used to fit this model"),
        (good, (), 3, "no labelled test photos"),
    ):
        got, _, stderr = pod(capfd, data, model, tmp_path / "out", *options)
        assert got == code and sentence in stderr and "Traceback" not in stderr
