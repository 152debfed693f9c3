"""`anomaly gauge` as its user meets it."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import draw_photo
from test_commands import run
from test_report import Page

from anomaly.appraisal.gauge.parts import read_parts
from anomaly.bundle import read_bundle
from anomaly.policy.policy import Cut


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Four good and three bad parts, three photos each; one bad part's spot is faint on one photo."""
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(31)
    for label, count in (("good", 4), ("bad", 3)):
        for i in range(count):
            (root / label / f"part{i}").mkdir(parents=True)
            for take in range(3):
                faint = label == "bad" and i == 0 and take == 1
                photo = draw_photo(rng, bad=label == "bad" and not faint)
                cv2.imwrite(str(root / label / f"part{i}/{take}.png"), photo)
    return root


def gauge(capfd, source, model, out, *options):
    return run(capfd, "gauge", source, "--model", model, "--out", out, *options)


def test_a_study_is_filed_with_limits_kappa_and_knapp(capfd, parts, model, tmp_path):
    code, stdout, stderr = gauge(capfd, parts, model, tmp_path / "out", "--json")
    assert code == 0, stderr
    told = json.loads(stdout)
    assert told == json.loads((tmp_path / "out/result.json").read_text())
    assert told["n_parts"] == 7 and told["photos_of_a_part"] == [3, 3]
    by_name = {part["part"]: part for part in told["parts"]}
    assert by_name["bad/part0"]["rejected"] == [True, False, True]
    for part in told["parts"]:
        assert part["rejected"] == [score > told["threshold"] for score in part["scores"]]
    wrong = sum(not all(p["rejected"]) if p["defective"] else any(p["rejected"]) for p in told["parts"])
    assert told["effectiveness"]["count"] == 7 - wrong
    assert told["miss_rate"]["count"] == 1 and told["miss_rate"]["verdict"] == "unacceptable"
    shown = run(capfd, "gauge", parts, "--model", model, "--out", tmp_path / "again")[1]
    assert "1 of 9 photos of 3 defective parts missed (" in shown and " %): unacceptable" in shown
    assert "0 of 12 photos of 4 good parts rejected (0 to 60.2 %): not shown to be acceptable" in shown
    assert told["kappa_reference"]["lower"] < told["kappa_reference"]["value"] <= 1
    page = Page((tmp_path / "out/report.html").read_text())
    flipping = sum(len(set(p["rejected"])) > 1 for p in told["parts"])
    assert page.tags().count("img") == 2 * flipping > 0
    assert page.tags().count("circle") == 21
    for word in ("Miss rate", "unacceptable", "Knapp", "2% / 5%", "kappa", "Signatures", "bad/part0"):
        assert word.lower() in page.text.lower()


def test_numbered_folders_are_parts_and_words_are_references(tmp_path):
    for name in ("0/a.png", "1/a.png", "NG/1/a.png", "ok/line 2/7/a.png", "ok/line 2/7/b.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = {part.name: (part.defective, len(part.photos)) for part in read_parts(tmp_path)}
    assert found == {"0": (None, 1), "1": (None, 1), "NG/1": (True, 1), "ok/line 2/7": (False, 2)}


def write(parts, file, rows):
    file.write_text("path;part;label;rejections;looks\n" + "\n".join(rows))
    return file


def test_a_manifest_brings_peoples_decisions(capfd, parts, model, tmp_path):
    data = shutil.copytree(parts, tmp_path / "data")
    rows = []
    for label, count, manual in (("good", 4, "0;30"), ("bad", 3, "28;30")):
        rows += [
            f"{label}/part{i}/{t}.png;{label[0]}{i};{label};{manual}" for i in range(count) for t in range(3)
        ]
    file = write(parts, data / "parts.csv", rows)
    code, stdout, stderr = gauge(capfd, file, model, tmp_path / "a", "--json")
    assert code == 0, stderr
    knapp = json.loads(stdout)["knapp"]
    assert knapp["reject_zone"] == ["b0", "b1", "b2"] and knapp["manual"]
    assert knapp["passed"] == (knapp["automated_efficiency"] >= 28 / 30)
    write(parts, file, [rows[0], rows[1].replace(";good;", ";bad;")])
    code, _, stderr = gauge(capfd, file, model, tmp_path / "b")
    assert code == 3 and "line 3: part 'g0' has another label" in stderr
    write(parts, file, [rows[0].replace(";30", ";many")])
    code, _, stderr = gauge(capfd, file, model, tmp_path / "b")
    assert code == 3 and "must both be whole numbers" in stderr


def test_thin_and_broken_parts_get_an_answer(capfd, parts, model, tmp_path):
    data = tmp_path / "data"
    for name in ("one", "two", "gone"):
        (data / name).mkdir(parents=True)
    shutil.copy(parts / "good/part0/0.png", data / "one/a.png")
    for name in "ab":
        shutil.copy(parts / "good/part1/0.png", data / f"two/{name}.png")
    (data / "gone/a.png").write_bytes(b"broken")
    code, stdout, stderr = gauge(capfd, data, model, tmp_path / "out")
    assert code == 0, stderr
    assert "1 of 1 parts were judged alike every time" in stdout
    assert "1 photos are byte for byte copies" in stderr and "No part has a reference" in stderr
    left_out = json.loads((tmp_path / "out/result.json").read_text())["left_out"]
    assert left_out["part gone"] == "none of its photos can be read"
    shutil.rmtree(data / "two")
    code, stdout, _ = gauge(capfd, data, model, tmp_path / "out", "--overwrite")
    assert code == 0 and "nothing can be said of repeats" in stdout


def test_what_is_no_study_is_refused_in_a_sentence(capfd, parts, product, model, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copytree(product / "train/good", tmp_path / "seen/part")
    (tmp_path / "broken/part").mkdir(parents=True)
    (tmp_path / "broken/part/a.png").write_bytes(b"broken")
    for source, sentence in (
        (tmp_path / "absent", "does not exist"),
        (empty, "give a folder for each part"),
        (parts / "good/part0", "stands in no folder of a part"),
        (tmp_path / "seen", "was used to fit this model"),
        (tmp_path / "broken", "none of the 1 photos can be used"),
    ):
        code, _, stderr = gauge(capfd, source, model, tmp_path / "out")
        assert code == 3 and sentence in stderr and "Traceback" not in stderr


def test_the_policy_in_force_decides_with_its_review_band_and_groups(capfd, parts, model, tmp_path):
    own = shutil.copytree(model, tmp_path / "own")
    data = shutil.copytree(parts, tmp_path / "data")
    bundle = read_bundle(own)
    born = bundle.detector.policy
    policy = replace(born, cut=Cut(1e6, 1e5), groups={"cam 2": Cut(1e6, -1e6)})
    bundle.versions.add(policy, born, why="everything to review", facts={})
    rows = [f"good/part{i}/{t}.png,p{i},good,{('cam 1', 'cam 2')[i % 2]}" for t in range(2) for i in range(4)]
    (data / "parts.csv").write_text("\n".join(["path,part,label,group", *rows]))
    code, stdout, stderr = gauge(capfd, data / "parts.csv", own, tmp_path / "out", "--json")
    assert code == 0, stderr
    told = json.loads(stdout)
    assert told["version"] == 1 and told["threshold"] == 1e5
    assert [part["rejected"] for part in told["parts"]] == [[False] * 2, [True] * 2] * 2
    page = Page((tmp_path / "out/report.html").read_text()).text
    assert "Set aside for review above 1e+05 Groups with a threshold of their own 1" in page
