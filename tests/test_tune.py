"""anomaly tune and anomaly audit, through the command: answers, sentences, versions."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_commands import run

from anomaly.bundle import read_bundle
from anomaly.policy.policy import Policy
from anomaly.policy.regions import RegionRules
from anomaly.policy.versions import Versions
from anomaly.quality.intervals import clopper_pearson
from anomaly.tuning.scores import ScoreCache, calibration_photos

Rows = Sequence[tuple[float, str, str]]
"""(score, label, group) of photos."""


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, whose versions and cache of scores are this test's alone."""
    return Path(shutil.copytree(model, tmp_path / "plate"))


def planted(model: Path, folder: Path, rows: Rows) -> Path:
    """A manifest of photos whose scores lie in the cache. They are no photos: scoring one would fail."""
    folder.mkdir(parents=True)
    cache = ScoreCache(read_bundle(model)).folder
    cache.mkdir(parents=True, exist_ok=True)
    with open(folder / "photos.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "split", "label", "group"))
        for i, (score, label, group) in enumerate(rows):
            content = f"{folder} {i}".encode()
            (folder / f"{i}.png").write_bytes(content)
            table.writerow((f"{i}.png", "test", label, group))
            np.savez(
                cache / f"{hashlib.sha256(content).hexdigest()}.npz",
                map=np.full((12, 16), score, np.float32),
                size=np.array([96, 128]),
                image_score=np.float64(score),
            )
    return folder / "photos.csv"


def rows_of(good: Sequence[float], bad: Sequence[float], group: str = "") -> list[tuple[float, str, str]]:
    return [(s, "normal", group) for s in good] + [(s, "anomalous", group) for s in bad]


def overlapping(n_good: int, n_bad: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    return rows_of(rng.normal(0, 1, n_good).tolist(), rng.normal(3, 1, n_bad).tolist())


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
    assert [line.split()[:2] for line in stdout.splitlines()] == [["version", "1"], ["version", "2"]]
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


CASES = {
    "one class, normal": rows_of(np.linspace(0, 1, 70).tolist(), []),
    "one class, anomalous": rows_of([], np.linspace(0, 1, 70).tolist()),
    "ties": rows_of([1.0, 1.0, 2.0, 2.0] * 20, [2.0, 2.0, 3.0] * 20),
    "constant scores": rows_of([5.0] * 70, [5.0] * 70),
    "three photos": rows_of([1.0, 2.0], [3.0]),
    "swapped labels": rows_of(np.linspace(5, 6, 70).tolist(), np.linspace(0, 1, 70).tolist()),
    "a group with one photo": [
        *rows_of(np.linspace(0, 1, 70).tolist(), [4.0] * 9, "a"),
        (9.0, "anomalous", "b"),
    ],
    "huge and tiny": rows_of([1e-300, -1e30] * 35, [1e30] * 9),
}
COST = ("--escape-cost", "200", "--overkill-cost", "1", "--defect-rate", "0.2%")
WISHES = (
    ("--max-overkill", "5%", "--by-group"),
    ("--zero-escapes", *COST),
    ("--max-overkill", "5%", "--max-escape", "5%", "--review-share", "3%", "--observed"),
)


@pytest.mark.parametrize("case", CASES)
def test_hostile_photos_get_an_answer_or_a_sentence(
    case: str, capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    data = planted(own_model, tmp_path / "d", CASES[case])
    good = np.array([score for score, label, _ in CASES[case] if label == "normal"])
    for wish in WISHES:
        code, stdout, stderr = run(capfd, "tune", "--model", own_model, data, *wish, "--dry-run", "--json")
        assert "Traceback" not in stderr
        if code:
            assert code in (2, 3, 5) and stderr.count("anomaly: ") == 1, stderr
            continue
        told = json.loads(stdout)
        point = told["chosen"]["cross_fitted"] or told["chosen"]["optimistic"]
        if "--max-overkill" in wish and good.size:
            assert (good > point["threshold"]).mean() <= 0.05
        if "--zero-escapes" in wish:
            assert told["chosen"]["optimistic"]["escapes"] == 0
        if "--observed" in wish:
            assert "nothing is promised" in told["promise"]
        if case == "swapped labels":
            assert any("check whether labels are swapped" in sentence for sentence in told["limits"])
        if case == "constant scores":
            assert any("no threshold tells these photos apart" in sentence for sentence in told["limits"])


def test_wrong_labels_are_pointed_out(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    rows = rows_of([*np.linspace(0, 1, 40), 50.0], [*np.linspace(30, 40, 20), 0.1])
    data = planted(own_model, tmp_path / "d", rows)
    told = json.loads(
        run(capfd, "tune", "--model", own_model, data, "--max-overkill", "20%", "--dry-run", "--json")[1]
    )
    assert Path(told["suspects"]["normal_with_highest_scores"][0]).name == "40.png"
    assert Path(told["suspects"]["anomalous_with_lowest_scores"][0]).name == "61.png"
    text = data.read_text()
    shutil.copy(data.parent / "0.png", data.parent / "same.png")
    data.write_text(text + "same.png,test,normal,\n")
    copied = json.loads(
        run(capfd, "tune", "--model", own_model, data, "--max-overkill", "20%", "--dry-run", "--json")[1]
    )
    assert copied["data"]["duplicates"] == 1 and copied["chosen"] == told["chosen"]
    data.write_text(text + "same.png,test,bad,\n")
    code, _, stderr = run(capfd, "tune", "--model", own_model, data, "--max-overkill", "20%", "--dry-run")
    assert code == 3 and "the same photo with different labels" in stderr


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--max-overkill", "5%"), 2, "give --why"),
        (("--dry-run",), 2, "needs a wish"),
        (("--dry-run", "--max-overkill", "1"), 2, "a share is such as 1% or 0.01"),
        (("--dry-run", "--max-overkill", "0%"), 2, "a share is such as 1% or 0.01"),
        (("--dry-run", "--max-escape", "many"), 2, "got 'many'"),
        (("--dry-run", "--max-escape", "nan"), 2, "got 'nan'"),
        (("--dry-run", "--max-escape", "1%%"), 2, "got '1%%'"),
        (
            ("--dry-run", "--escape-cost", "3"),
            2,
            "need all of --escape-cost, --overkill-cost and --defect-rate",
        ),
        (
            ("--dry-run", "--escape-cost", "0", "--overkill-cost", "1", "--defect-rate", "1%"),
            2,
            "escape_cost must",
        ),
        (
            ("--dry-run", "--escape-cost", "1", "--overkill-cost", "-1", "--defect-rate", "1%"),
            2,
            "overkill_cost must",
        ),
        (("--dry-run", "--max-overkill", "5%", "--rules", "absent.yaml"), 2, "cannot read"),
    ],
)
def test_options_that_make_no_sense_are_told_so(
    options: tuple[str, ...], code: int, sentence: str, capfd: pytest.CaptureFixture[str], model: Path
) -> None:
    found, _, stderr = run(capfd, "tune", "--model", model, *options)
    assert found == code and sentence in stderr and stderr.count("\n") == 1


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


def test_audit_finds_what_was_done_to_the_log(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    verify = ("audit", "verify", "--model", own_model)
    assert run(capfd, *verify)[1].startswith("intact: 0 versions")
    data = planted(own_model, tmp_path / "d", overlapping(70, 9))
    for why in ("one", "two", "three"):
        tuned = run(capfd, "tune", "--model", own_model, data, "--max-overkill", "5%", "--why", why, "--json")
    signed = json.loads(tuned[1])["audit"]["sha256"]
    code, stdout, _ = run(capfd, *verify, "--signed", signed, "--json")
    assert code == 0 and json.loads(stdout) == {
        "intact": True, "versions": 3, "sha256": signed, "signed_found": True
    }  # fmt: skip
    assert run(capfd, *verify, "--signed", "ab" * 32)[0] == 4
    log = read_bundle(own_model).versions.log.path
    first, second, third = lines = log.read_text().splitlines(keepends=True)
    for name, text in {
        "line 2 was edited": first + second.replace("two", "2wo") + third,
        "line 2 does not follow": first + third,
        "line 1 does not follow": second + first + third,
        "line 3 is cut off or missing": first + second,
    }.items():
        log.write_text(text)
        code, _, stderr = run(capfd, *verify)
        assert code == 4 and name in stderr and "from a backup" in stderr
        assert run(capfd, "tune", "rollback", "--model", own_model, "--why", "x")[0] == 4
        assert log.read_text() == text
    log.write_text("".join(lines))
    assert run(capfd, *verify)[0] == 0
    evidence = log.parent / "files" / json.loads(first)["entry"]["evidence"]["file"]
    evidence.write_bytes(evidence.read_bytes().replace(b"normal", b"no mal", 1))
    code, _, stderr = run(capfd, *verify)
    assert code == 4 and "was changed after it was written" in stderr


def sign_several(versions: Versions, policy: Policy, start: Any) -> None:
    """In a process of its own."""
    start.wait()
    for number in range(10):
        versions.add(policy, policy, why=f"reason {number}", facts={})


def test_processes_that_sign_at_once_lose_nothing(own_model: Path) -> None:
    bundle = read_bundle(own_model)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    arguments = (bundle.versions, Policy.born(bundle.detector.calibration), start)
    workers = [context.Process(target=sign_several, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    records = bundle.versions.verify()
    assert [record["entry"]["old"]["version"] for record in records] == list(range(40))
    assert read_bundle(own_model).detector.policy.version == 40
