"""anomaly tune, through the command: answers, versions, evidence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import overlapping, planted, rows_of
from test_commands import run

from anomaly.bundle import read_bundle
from anomaly.policy.policy import Policy
from anomaly.policy.regions import RegionRules
from anomaly.quality.intervals import clopper_pearson
from anomaly.tuning.scores import ScoreCache, calibration_photos


def answer(capfd: pytest.CaptureFixture[str], *options: object) -> dict[str, Any]:
    """What `anomaly tune` answers as JSON."""
    code, stdout, stderr = run(capfd, "tune", *options, "--why", "a test", "--json")
    assert code == 0, stderr
    told: dict[str, Any] = json.loads(stdout)
    return told


def test_a_wish_becomes_a_version_with_its_evidence(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    rows = overlapping(120, 80)
    data = planted(own_model, tmp_path / "d", rows)
    code, stdout, stderr = run(
        capfd, "tune", "--model", own_model, data, "--max-overkill", "5%", "--max-escape", "0.4",
        "--review-share", "3 %", "--why", "first lots", "--who", "Ada", "--json",
    )  # fmt: skip
    assert code == 0, stderr
    told = json.loads(stdout)
    fair, optimistic = told["chosen"]["cross_fitted"], told["chosen"]["optimistic"]
    threshold, review = fair["threshold"], fair["review_threshold"]
    scores = np.array([row[0] for row in rows])
    bad = np.array([row[1] == "anomalous" for row in rows])
    assert optimistic["overkills"] == (scores[~bad] > threshold).sum()
    assert optimistic["escapes"] == (scores[bad] <= review).sum()
    assert optimistic["overkill_interval"] == list(clopper_pearson(optimistic["overkills"], 120))
    assert optimistic["optimistic"] and not fair["optimistic"] and fair["escapes"] >= optimistic["escapes"]
    assert optimistic["normal_reviews"] <= 3 and review < threshold
    assert "At most 5 % of normal photos like the 120" in told["promise"]
    assert told["version"] == 1 and told["data"]["newly_scored"] == 0
    assert any("the smallest overkill that you can promise" in sentence for sentence in told["limits"])
    wishes = [row["wish"] for row in told["points"]]
    assert wishes[0] == "version 0, in force" and len(wishes) >= 8

    policy = read_bundle(own_model).detector.policy
    assert (policy.cut.threshold, policy.cut.review_threshold, policy.version) == (threshold, review, 1)
    versions = read_bundle(own_model).versions
    record = versions.records()[0]
    assert record["who"] == "Ada" and record["entry"]["why"] == "first lots"
    assert record["entry"]["old"]["threshold"] == read_bundle(own_model).detector.calibration.threshold
    assert record["entry"]["new"]["threshold"] == threshold
    assert record["entry"]["data"]["fingerprint"] == told["data"]["fingerprint"]
    evidence = json.loads(versions.read(record["entry"]["evidence"]["file"]))
    assert [row[4] for row in evidence["rows"]] == [row[0] for row in rows]
    page = versions.report(1).read_text()
    for words in ("What was asked", "first lots", record["sha256"], "Signatures", "At most 5 % of normal"):
        assert words in page
    assert "http" not in page.replace("http-equiv", "")

    again = run(capfd, "tune", "--model", own_model, data, "--max-overkill", "5%", "--dry-run", "--json")[1]
    first = json.loads(again)["points"][0]
    assert first["wish"] == "version 1, in force" and first["optimistic"] and not first["cross_fitted"]
    assert len(versions.records()) == 1, "a dry run changes nothing"


def test_normal_photos_alone_give_an_order_statistic_and_say_what_they_cannot(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    """The fit held 19 photos out; the wish takes 59."""
    tune = ("tune", "--model", own_model)
    code, stdout, stderr = run(capfd, *tune, "--max-overkill", "5%", "--why", "x")
    assert code == 5 and "needs at least 59 normal photos, got 19" in stderr
    assert (
        "19 normal photos: the smallest overkill that you can promise with 95 % confidence is 15 %" in stdout
    )
    assert "for 5 % bring 59" in stdout and "Nothing is known of escapes" in stdout
    assert not read_bundle(own_model).versions.folder.exists(), "nothing was signed"
    calibration = read_bundle(own_model).detector.calibration.scores
    more = np.linspace(calibration.min(), calibration.max() + 1, 50)
    extra = planted(own_model, tmp_path / "d", rows_of(more.tolist(), []))
    code, stdout, stderr = run(
        capfd,
        *tune,
        "--normal",
        extra,
        "--max-overkill",
        "5%",
        "--review-share",
        "10%",
        "--why",
        "x",
        "--json",
    )
    assert code == 0, stderr
    told, scores = json.loads(stdout), np.sort([*calibration, *more])
    point = told["chosen"]["optimistic"]
    assert point["threshold"] == scores[-1] and point["n_normal"] == 69, "69 allow no failure"
    assert point["review_threshold"] == scores[-1 - 6] and point["normal_reviews"] == 6
    assert told["chosen"]["cross_fitted"] is None and "like the 69 that chose" in told["promise"]
    conformal = next(row for row in told["points"] if "conformal" in row["wish"])
    assert conformal["optimistic"]["overkills"] == 2, "69 - ceil(0.95 * 70)"
    for wish in (["--max-escape", "1%"], ["--zero-escapes"]):
        code, _, stderr = run(capfd, *tune, *wish, "--dry-run")
        assert code == 5 and "need photos labelled anomalous, got none" in stderr


def test_real_photos_are_scored_once_and_those_of_the_fit_refused(
    capfd: pytest.CaptureFixture[str], own_model: Path, product: Path, tmp_path: Path
) -> None:
    tune = ("tune", "--model", own_model, product, "--zero-escapes", "--dry-run", "--json")
    first = json.loads(run(capfd, *tune)[1])
    assert first["data"]["newly_scored"] == 12 and first["data"]["anomalous"] == 6
    again = json.loads(run(capfd, *tune)[1])
    assert again["data"]["newly_scored"] == 0 and again["chosen"] == first["chosen"]
    rules = tmp_path / "rules.yaml"
    rules.write_text("smallest_area: 20 px\nphoto_size: [96, 128]\n")
    ruled = json.loads(run(capfd, *tune, "--rules", rules)[1])
    assert ruled["data"]["newly_scored"] == 0, "the kept maps serve any rule"
    for kept in ScoreCache(read_bundle(own_model)).folder.iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    assert json.loads(run(capfd, *tune)[1])["chosen"] == first["chosen"], "a broken cache is scored anew"
    leaky = tmp_path / "leaky"
    shutil.copytree(product / "test", leaky / "test")
    (leaky / "train/good").mkdir(parents=True)
    shutil.copy(read_bundle(own_model).calibration_photos[0]["path"], leaky / "test/good/x.png")
    code, _, stderr = run(capfd, "tune", "--model", own_model, leaky, "--zero-escapes", "--dry-run")
    assert code == 3 and "was used to fit this model" in stderr


def test_region_rules_are_tuned_applied_and_undone(
    capfd: pytest.CaptureFixture[str], own_model: Path, product: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "px_per_mm: 4\nphoto_size: [96, 128]\nsmallest_area: 2 mm2\n"
        "ignore:\n- polygon: [[0, 0], [0, 127], [10, 127], [10, 0]]\n"
    )
    code, stdout, stderr = run(
        capfd,
        "tune",
        "--model",
        own_model,
        product,
        "--zero-escapes",
        "--rules",
        rules,
        "--why",
        "burrs",
        "--json",
    )
    assert code == 0, stderr
    told = json.loads(stdout)
    assert "regions of 32 px or more count" in told["asked"][1]
    out = tmp_path / "out"
    assert run(capfd, "inspect", product / "test", "--model", own_model, "--out", out)[0] == 0
    verdicts = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    spots = [v for v in verdicts if "spot" in v["path"]]
    assert all(v["decision"] == "anomalous" and v["threshold"] < v["image_score"] for v in spots)
    evidence = json.loads(read_bundle(own_model).versions.read(
        read_bundle(own_model).versions.records()[0]["entry"]["evidence"]["file"]
    ))  # fmt: skip
    tuned_at = {Path(row[0]).name: row[4] for row in evidence["rows"] if row[2] == "anomalous"}
    inspected = {Path(v["path"]).name: v["image_score"] for v in spots}
    assert inspected == pytest.approx(tuned_at, rel=1e-5), "inspect scores as tune did, up to float32"
    code, stdout, _ = run(
        capfd, "tune", "rollback", "--model", own_model, "--why", "too blind", "--who", "Bo"
    )
    assert code == 0 and stdout.startswith("version 2 restores version 0")
    policy = read_bundle(own_model).detector.policy
    assert policy.rules is None and policy.version == 2
    code, stdout, _ = run(capfd, "audit", "show", "--model", own_model)
    assert [line.split()[:2] for line in stdout.splitlines()] == [["version", n] for n in "0122"]
    assert stdout.endswith("version 2 is in force\n")
    page = read_bundle(own_model).versions.report(2).read_text()
    assert "Version 2 restores version 0" in page and "too blind" in page and "Signatures" in page
    code, _, stderr = run(capfd, "tune", "rollback", "--model", own_model, "--to", "0", "--why", "again")
    assert code == 2 and "version 0 is in force already, as version 2" in stderr
    assert "'too blind'" in stdout and "Bo" in stdout


def test_rules_need_no_calibration_photo_again(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    """The fit kept their maps, each as it was before the model had seen the photo."""
    bundle = read_bundle(own_model)
    born = Policy.born(bundle.detector.calibration)
    everywhere = RegionRules(np.ones((96, 128), bool), (96, 128))
    policy = Policy(born.cut, born.promise, born.normal_scores, rules=everywhere)
    photos = calibration_photos(ScoreCache(bundle), policy)
    stored = [photo["image_score"] for photo in bundle.calibration_photos]
    assert [row.score for row in photos.rows] == pytest.approx(stored, rel=1e-6)
    rules = tmp_path / "rules.yaml"
    rules.write_text("photo_size: [96, 128]\nlook_at:\n- polygon: [[0, 0], [0, 60], [95, 60], [95, 0]]\n")
    told = answer(capfd, "--model", own_model, "--max-overkill", "20%", "--rules", rules)
    policy = read_bundle(own_model).detector.policy
    assert told["data"]["newly_scored"] == 0 and policy.cut.threshold in policy.normal_scores
    assert len(policy.normal_scores) == len(stored) and not np.array_equal(
        policy.normal_scores, np.sort(stored)
    )


def test_groups_get_thresholds_of_their_own_where_they_have_photos_enough(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    rows = [
        *rows_of(rng.normal(0, 1, 100).tolist(), rng.normal(6, 1, 40).tolist(), "left"),
        *rows_of(rng.normal(5, 1, 100).tolist(), rng.normal(12, 1, 40).tolist(), "right"),
        *rows_of([7.0], [], "one photo"),
    ]
    data = planted(own_model, tmp_path / "d", rows)
    code, stdout, stderr = run(
        capfd,
        "tune",
        "--model",
        own_model,
        data,
        "--by-group",
        "--max-overkill",
        "5%",
        "--why",
        "x",
        "--json",
    )
    assert code == 0, stderr
    told = json.loads(stdout)
    cut = {name: row["cross_fitted"] for name, row in told["groups"].items()}
    assert cut["one photo"] is None
    assert "the pooled threshold decides" in told["groups"]["one photo"]["reason"]
    assert cut["left"]["threshold"] < 4 < cut["right"]["threshold"]
    policy = read_bundle(own_model).detector.policy
    assert policy.cut_of("left").threshold == cut["left"]["threshold"]
    assert policy.cut_of("one photo") == policy.cut_of(None) == policy.cut
    with open(data.with_name("none.csv"), "w") as file:
        file.write(data.read_text().replace("left", "").replace("right", "").replace("one photo", ""))
    for option in ("--by-group", "--count-parts"):
        code, _, stderr = run(
            capfd, "tune", "--model", own_model, data.with_name("none.csv"), option, "--max-overkill", "5%",
            "--dry-run",
        )  # fmt: skip
        assert code == 3 and "give a manifest with the column group" in stderr


def test_parts_are_counted_as_one_and_judged_by_their_worst_photo(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    rows = [(float(part + view / 10), "normal", f"p{part}") for part in range(70) for view in range(3)]
    rows += [
        (90.0 + part, "anomalous" if view else "normal", f"q{part}") for part in range(5) for view in range(2)
    ]
    data = planted(own_model, tmp_path / "d", rows)
    tune = ("tune", "--model", own_model, data, "--max-overkill", "5%", "--dry-run", "--json")
    parts = json.loads(run(capfd, *tune, "--count-parts")[1])
    assert (parts["data"]["normal_counted"], parts["data"]["anomalous_counted"]) == (70, 5)
    point = parts["chosen"]["optimistic"]
    assert point["overkills"] == 0 and point["threshold"] > 69.2, "70 parts allow none to fail"
    photos = json.loads(run(capfd, *tune)[1])
    assert photos["chosen"]["optimistic"]["n_normal"] == 215
    assert any("use --count-parts" in sentence for sentence in photos["limits"])
    assert run(capfd, *tune, "--count-parts", "--by-group")[0] == 2


def test_costs_are_signed_and_every_row_tells_what_it_costs(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    data = planted(own_model, tmp_path / "d", overlapping(120, 80))
    asked = ("--escape-cost", "200", "--overkill-cost", "1", "--defect-rate", "0.2%")
    told = answer(capfd, "--model", own_model, data, *asked)
    for row in (told["chosen"], *told["points"]):
        point = row["cross_fitted"] or row["optimistic"]
        if point:
            cost = 1000 * (0.002 * point["escape_rate"] * 200 + 0.998 * point["overkill_rate"])
            low, high = point["cost_interval"]
            assert point["cost_per_1000"] == pytest.approx(cost) and 0 <= low <= cost <= high
    words = "an escape costs 200, an overkill costs 1, 0.2 % of parts are defective"
    versions = read_bundle(own_model).versions
    entry = versions.records()[0]["entry"]
    assert words in entry["asked"][0] and words in entry["new"]["promise"]
    audit = tmp_path / "audit.html"
    assert run(capfd, "audit", "show", "--model", own_model, "--report", audit)[0] == 0
    assert words in versions.report(1).read_text() and words in audit.read_text()
    stdout = run(capfd, "tune", "--model", own_model, data, *asked, "--dry-run")[1]
    assert stdout.count(", least") == 1 and "1000 parts cost" in stdout


def test_a_wish_kept_in_choosing_stands_beside_the_fair_count(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    data = planted(own_model, tmp_path / "d", overlapping(120, 80))
    stdout = run(capfd, "tune", "--model", own_model, data, "--zero-escapes", "--dry-run")[1]
    row = next(line for line in stdout.splitlines() if "at most 0.5 % of these" in line)
    assert "fair; 0 + " in row and "in choosing" in row
    assert "two-sided intervals at 95 %" in stdout and "reviewed" not in stdout
    wish = ("--zero-escapes", "--review-share", "5%", "--dry-run")
    assert "reviewed: normal + anomalous" in run(capfd, "tune", "--model", own_model, data, *wish)[1]


def test_a_promise_names_the_few_lots_that_it_rests_on(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    rows = [row for name in ("lot A", "lot B") for row in rows_of([*range(40)], [50.0, 51.0], name)]
    data = planted(own_model, tmp_path / "d", rows)
    told = answer(capfd, "--model", own_model, data, "--max-overkill", "5%", "--zero-escapes")
    assert "like the 80 of 2 groups (lot A, lot B) that chose" in told["promise"]
    assert "a promise about photos like those of these 2 groups" in told["promise"]
    assert not any("use --count-parts" in sentence for sentence in told["limits"]), "lots are no parts"
    code, _, stderr = run(
        capfd, "tune", "--model", own_model, data, "--max-overkill", "5%", "--count-parts", "--dry-run"
    )
    assert code == 3 and "all 2 groups hold normal and anomalous photos: groups must be parts" in stderr


def test_a_plan_gives_the_numbers_of_photos(capfd: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = run(
        capfd, "tune", "plan", "--max-escape", "1%", "--max-overkill", "5%", "--confidence", "95%", "--json"
    )
    photos = json.loads(stdout)["photos"]
    assert code == 0 and photos["escape"][:3] == [299, 473, 628] and photos["overkill"][0] == 59
    code, stdout, _ = run(capfd, "tune", "plan", "--max-escape", "1%", "--failures", "1")
    assert "299 anomalous photos of different parts, of which 0 may pass" in stdout
    assert len(stdout.splitlines()) == 3
    assert run(capfd, "tune", "plan")[0] == 2
