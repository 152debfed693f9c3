"""What decides: cuts, region rules and their versions beside the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import QUICK, SPOT
from test_commands import run

from anomaly.bundle import Bundle, read_bundle
from anomaly.config import RunConfig
from anomaly.errors import BundleError, ConfigError, ImageError
from anomaly.fitting.run import fit
from anomaly.inspection.stream import judge
from anomaly.maps import top_mean
from anomaly.policy.policy import Cut, Policy
from anomaly.policy.regions import RegionRules, read_rules, region_level
from anomaly.records import Region


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, whose versions are this test's alone."""
    return Path(shutil.copytree(model, tmp_path / "plate"))


def born(bundle: Bundle) -> Policy:
    return Policy.born(bundle.detector.calibration)


def changed(bundle: Bundle, **fields: object) -> Policy:
    return Policy(**{**vars(born(bundle)), "promise": "as wished", **fields})


def test_a_cut_decides_and_the_threshold_itself_still_passes() -> None:
    cut = Cut(2.0, 1.0)
    assert [cut.decide(score) for score in (1.0, 1.5, 2.0, 2.5)] == [
        "normal",
        "review",
        "review",
        "anomalous",
    ]
    assert Cut(2.0).decide(2.0) == "normal"
    for threshold, review in ((1.0, 2.0), (np.inf, None), (np.nan, 0.0), (1.0, np.nan)):
        with pytest.raises(ConfigError, match="must be finite, review_threshold the lower"):
            Cut(threshold, review)


def brute_level(values: np.ndarray, inside: np.ndarray, area: float, mean: float | None) -> float:
    """`region_level` by trying every level."""
    for level in np.unique(values[inside])[::-1]:
        above = ((values >= level) & inside).astype(np.uint8)
        count, labels = cv2.connectedComponents(above, connectivity=8)
        for k in range(1, count):
            cells = values[labels == k].astype(np.float64)
            if cells.size >= area and (mean is None or cells.mean() >= mean):
                return float(level)
    return float(values[inside].min())


@pytest.mark.parametrize("seed", range(12))
def test_region_level_is_the_highest_at_which_an_area_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = cv2.GaussianBlur(rng.normal(size=(13, 17)), (0, 0), 1.0 + seed % 3).astype(np.float32)
    inside = rng.random(values.shape) < (0.7 if seed % 2 else 2)
    for area in (1, 3, 9, 40, 1000):
        for mean in (None, 0.1, float(values.mean()), 9.0):
            assert region_level(values, inside, area, mean) == brute_level(values, inside, area, mean)


def test_a_photo_exceeds_a_threshold_exactly_where_an_area_of_the_size_does() -> None:
    """Nested: the score under a rule and the areas above any threshold say the same."""
    rng = np.random.default_rng(5)
    values = cv2.GaussianBlur(rng.normal(size=(20, 24)), (0, 0), 1.5).astype(np.float32)
    rules = RegionRules(smallest_area=12 * 64)
    score = rules.score(values, (160, 192), 0.001)
    for threshold in np.linspace(values.min() - 0.01, values.max(), 40):
        above = (values.astype(np.float64) > threshold).astype(np.uint8)
        areas = cv2.connectedComponentsWithStats(above, connectivity=8)[2][1:, cv2.CC_STAT_AREA]
        assert (score > threshold) == (areas.max(initial=0) >= 12)


def test_a_mask_hides_what_it_covers_at_any_size_of_the_photo() -> None:
    mask = np.ones((80, 120), bool)
    mask[:, 60:] = False
    values = np.zeros((10, 15), np.float32)
    values[:, 10:] = 9.0
    values[2, 2] = 3.0
    rules = RegionRules(mask, (80, 120))
    for size in ((80, 120), (160, 240), (79, 120)):
        assert rules.score(values, size, 0.001) == 3.0
    assert top_mean(values, 0.001) == 9.0
    with pytest.raises(
        ImageError, match="the photo is 80 x 120 px, the region rules were drawn for 120 x 80"
    ):
        rules.score(values, (120, 80), 0.03)
    tiny = np.zeros((80, 120), bool)
    tiny[20, 20] = True  # smaller than a cell of the map
    assert RegionRules(tiny, (80, 120)).score(values, (80, 120), 0.03) == 3.0


def test_regions_that_are_too_small_or_too_weak_do_not_count() -> None:
    found = (
        Region((0, 0, 2, 2), 4, 9.0),
        Region((5, 5, 15, 15), 100, 5.0),
        Region((20, 0, 30, 30), 300, 2.0),
    )
    assert RegionRules(smallest_area=50).kept(found) == found[1:]
    assert RegionRules(smallest_area=50, smallest_mean=4.0).kept(found) == found[1:2]
    assert RegionRules(smallest_area=1000).kept(found) == found[:1], "an anomalous photo shows its place"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_rules_are_read_from_polygons_and_images_in_px_and_mm(tmp_path: Path) -> None:
    picture = np.zeros((40, 60), np.uint8)
    picture[:10] = 255
    cv2.imwrite(str(tmp_path / "top.png"), picture)
    rules = read_rules(
        write(
            tmp_path / "rules.yaml",
            "px_per_mm: 2\nphoto_size: [40, 60]\nsmallest_area: 3 mm2\nsmallest_mean: 1.5\n"
            "look_at:\n- polygon: [[0, 0], [0, 14.5], [19.5, 14.5], [19.5, 0]]\n  unit: mm\n"
            "- polygon: [[0, 50], [39, 50], [39, 59], [0, 59]]\n"
            "ignore:\n- image: top.png\n",
        )
    )
    expected = np.zeros((40, 60), bool)
    expected[10:, :30] = expected[10:, 50:] = True
    assert np.array_equal(rules.mask, expected)
    assert (rules.smallest_area, rules.smallest_mean, rules.photo_size) == (12.0, 1.5, (40, 60))
    assert read_rules(write(tmp_path / "area.yaml", "smallest_area: 40\n")).smallest_area == 40.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("smallest_aera: 4", "there is no field 'smallest_aera': did you mean 'smallest_area'"),
        ("look_at:\n- polygn: 3", "there is no field 'look_at.0.polygn': did you mean 'polygon'"),
        ("look_at:\n- polygon: [[0, 0], [1, 1]]", "look_at.0.polygon"),
        ("look_at:\n- unit: px", "each area is either a `polygon` or an `image`"),
        ("look_at:\n- polygon: [[0, 0], [0, 9], [9, 9]]", "polygons need photo_size"),
        ("smallest_area: 3 mm2", "give px_per_mm"),
        ("smallest_area: 3 cm", "such as '40 px' or '0.5 mm2'"),
        ("smallest_area: -3", "'40 px' or '0.5 mm2'"),
        ("smallest_area: nan px", "'40 px' or '0.5 mm2'"),
        ("px_per_mm: 0", "px_per_mm"),
        ("- 3", "must hold fields"),
        ("photo_size: [9, 9]\nsmallest_area: 100", "larger than what is looked at"),
        (
            "photo_size: [20, 20]\nignore:\n- polygon: [[0, 0], [0, 20], [20, 20], [20, 0]]",
            "leaves nothing to look at",
        ),
        ("photo_size: [9, 9]\nlook_at:\n- polygon: [[0, 0], [0, 1e9], [9, 9]]", "corners that no photo has"),
    ],
)
def test_rules_that_make_no_sense_are_told_so(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_rules(write(tmp_path / "rules.yaml", text))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_masks_of_two_sizes_and_missing_ones_are_named(tmp_path: Path) -> None:
    for name, size in (("a.png", (40, 60)), ("b.png", (41, 60))):
        cv2.imwrite(str(tmp_path / name), np.full(size, 255, np.uint8))
    with pytest.raises(ConfigError, match="different sizes"):
        read_rules(write(tmp_path / "r.yaml", "look_at:\n- image: a.png\nignore:\n- image: b.png"))
    with pytest.raises(ImageError, match="no such file"):
        read_rules(write(tmp_path / "r.yaml", "look_at:\n- image: c.png"))


def test_the_version_in_force_is_applied_and_recorded_everywhere(
    capfd: pytest.CaptureFixture[str], own_model: Path, product: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(own_model)
    assert bundle.detector.policy.version == 0
    detector = bundle.detector
    scores = [detector.score(detector.read(p)).image_score for p in sorted((product / "test/good").iterdir())]
    low, high = min(scores) - 1, max(scores) + 1
    policy = changed(bundle, cut=Cut(high, low), groups={"cam/2": Cut(low)})
    bundle.versions.add(policy, born(bundle), why="two cameras", who="Ada", facts={})

    def inspect(name: str, *more: str) -> tuple[list[dict[str, object]], dict[str, object], str]:
        out = tmp_path / name
        code, _, stderr = run(
            capfd, "inspect", product / "test/good", "--model", own_model, "--out", out, *more
        )
        assert code == 0, stderr
        verdicts = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
        return verdicts, json.loads((out / "summary.json").read_text()), stderr

    verdicts, summary, stderr = inspect("pooled")
    assert {v["decision"] for v in verdicts} == {"review"} and {v["version"] for v in verdicts} == {1}
    assert all(v["threshold"] == high and v["review_threshold"] == low and v["regions"] for v in verdicts)
    assert summary["version"] == 1 and summary["review"] == 6 and summary["guarantee"] == "as wished"
    assert "6 to review" in stderr
    page = (tmp_path / "pooled/report.html").read_text()
    assert "<dt>Version</dt><dd>1</dd>" in page and "6 are to be reviewed" in page
    assert (tmp_path / "pooled/verdicts.csv").read_text().splitlines()[1].split(",")[1] == "review"
    verdicts, summary, _ = inspect("camera", "--group", "cam/2")
    assert {v["decision"] for v in verdicts} == {"anomalous"} and {v["group"] for v in verdicts} == {"cam/2"}
    assert summary["threshold"] == low and summary["group"] == "cam/2"
    verdicts, _, stderr = inspect("other", "--group", "cam/9")
    assert {v["decision"] for v in verdicts} == {"review"}
    assert "no threshold for group 'cam/9' (known: cam/2): the pooled one decides" in stderr

    code, stdout, _ = run(capfd, "evaluate", product, "--model", own_model, "--json", "--no-track")
    metrics = json.loads(stdout)
    assert code == 0 and metrics["version"] == 1 and metrics["threshold"] == high
    assert metrics["overkill_rate"] == 0 and metrics["normal_reviews"] == 6


def test_region_rules_change_score_place_and_decision(
    capfd: pytest.CaptureFixture[str], own_model: Path, product: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(own_model)
    mask = np.ones((96, 128), bool)
    mask[:, : SPOT[1] + 30] = False  # the defect is where nobody looks
    rules = RegionRules(mask, (96, 128))
    photo = product / "test/spot/000.png"
    raw = bundle.detector.score(bundle.detector.read(photo))
    cut = Cut((raw.image_score + rules.score(raw.anomaly_map, (96, 128), 0.03)) / 2)
    bundle.versions.add(changed(bundle, rules=rules, cut=cut), born(bundle), why="fixture there", facts={})
    hidden = read_bundle(own_model).detector
    assert hidden.judged_score(raw, (96, 128)) < hidden.policy.cut.threshold < raw.image_score
    assert judge(hidden, photo).verdict.decision == "normal"
    seen = RegionRules(~mask, (96, 128), smallest_area=30)
    bundle.versions.add(changed(bundle, rules=seen), born(bundle), why="the other half", facts={})
    odd = tmp_path / "odd.png"
    cv2.imwrite(str(odd), np.full((128, 96, 3), 90, np.uint8))
    out = tmp_path / "out"
    assert run(capfd, "inspect", photo, odd, "--model", own_model, "--out", out)[0] == 0
    spot, wrong = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert spot["decision"] == "anomalous" and spot["version"] == 2
    assert all(r["box"][3] <= SPOT[1] + 30 and r["area"] >= 30 for r in spot["regions"])
    top, left, bottom, right = spot["regions"][0]["box"]
    assert top <= SPOT[0] < bottom and left <= SPOT[1] < right
    assert spot["regions"][0]["mean"] < spot["regions"][0]["peak"]
    assert wrong["decision"] == "error" and "drawn for 128 x 96" in wrong["error"]
    metrics = json.loads(run(capfd, "evaluate", product, "--model", own_model, "--json", "--no-track")[1])
    assert metrics["escape_rate"] == 0 and metrics["version"] == 2


def test_a_policy_comes_back_as_it_was(own_model: Path) -> None:
    bundle = read_bundle(own_model)
    mask = np.random.default_rng(0).random((96, 128)) < 0.5
    policy = changed(
        bundle,
        cut=Cut(0.1 + 0.2, 0.1),
        groups={"ä": Cut(1.0), "b": Cut(2.0, -1.0)},
        rules=RegionRules(mask, (96, 128), 12.5, 0.25),
        normal_scores=np.array([0.1, 0.7, 3.0]),
    )
    record = bundle.versions.add(policy, born(bundle), why="check", facts={})
    assert record["entry"]["old"]["version"] == 0
    assert record["entry"]["old"]["threshold"] == bundle.detector.calibration.threshold
    back = read_bundle(own_model).detector.policy
    assert (back.cut, back.groups, back.promise, back.version) == (policy.cut, policy.groups, "as wished", 1)
    assert np.array_equal(back.normal_scores, policy.normal_scores)
    assert np.array_equal(back.rules.mask, mask)
    assert (back.rules.photo_size, back.rules.smallest_area, back.rules.smallest_mean) == (
        (96, 128),
        12.5,
        0.25,
    )


def test_rolling_back_goes_one_step_each_time_and_forgets_nothing(own_model: Path) -> None:
    bundle = read_bundle(own_model)
    versions, first = bundle.versions, born(bundle)
    with pytest.raises(ConfigError, match="nothing to go back to"):
        versions.roll_back(first, why="no")
    for threshold in (1.0, 2.0, 3.0):
        versions.add(changed(bundle, cut=Cut(threshold)), first, why=f"to {threshold}", facts={})
    for expected in (2.0, 1.0):
        versions.roll_back(first, why="worse")
        assert versions.current(first).cut.threshold == expected
    versions.roll_back(first, why="worse still")
    assert versions.current(first).cut == first.cut and versions.current(first).version == 6
    versions.roll_back(first, why="the best one", to=3)
    assert versions.current(first).cut.threshold == 3.0
    assert [record["entry"]["old"]["version"] for record in versions.records()] == list(range(7))
    with pytest.raises(ConfigError, match=r"no version 99: it has 0, 1, 2, 3, 4, 5, 6, 7"):
        versions.roll_back(first, why="x", to=99)
    with pytest.raises(ConfigError, match="is in force already"):
        versions.roll_back(first, why="x", to=7)
    with pytest.raises(ConfigError, match="version 3 is in force already, as version 7"):
        versions.roll_back(first, why="x", to=3)
    with pytest.raises(ConfigError, match="give --why"):
        versions.roll_back(first, why="  ", to=1)


def test_a_new_model_in_the_same_place_starts_from_its_own_threshold(own_model: Path) -> None:
    bundle = read_bundle(own_model)
    bundle.versions.add(changed(bundle, cut=Cut(9.0)), born(bundle), why="x", facts={})
    other = type(bundle.versions)(own_model, "0" * 64)
    assert other.current(born(bundle)).version == 0
    with pytest.raises(ConfigError, match="no version 1: it has 0"):
        other.roll_back(born(bundle), why="x", to=1)


def test_a_linked_model_has_the_versions_of_what_it_links_to(own_model: Path, tmp_path: Path) -> None:
    bundle = read_bundle(own_model)
    bundle.versions.add(changed(bundle, cut=Cut(9.0)), born(bundle), why="x", facts={})
    (tmp_path / "current").symlink_to(own_model)
    assert read_bundle(tmp_path / "current").detector.policy.cut.threshold == 9.0


@pytest.mark.parametrize("what", ["edited", "cut", "head", "scores", "mask", "whole log"])
def test_inspect_stops_at_versions_that_were_tampered_with(
    what: str, capfd: pytest.CaptureFixture[str], own_model: Path, product: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(own_model)
    policy = changed(
        bundle, rules=RegionRules(np.ones((96, 128), bool), (96, 128)), normal_scores=np.array([1.0])
    )
    for _ in range(2):
        entry = bundle.versions.add(policy, born(bundle), why="x", facts={})["entry"]
    folder, log = bundle.versions.folder, bundle.versions.log.path
    if what == "edited":
        log.write_text(log.read_text().replace('"why":"x"', '"why":"y"', 1))
    elif what == "cut":
        log.write_text(log.read_text().splitlines(keepends=True)[0])
    elif what == "head":
        bundle.versions.log.head.unlink()
    elif what == "whole log":
        (folder / "version-0001.html").write_text("report")
        log.unlink()
        bundle.versions.log.head.unlink()
    else:
        name = entry["new"]["normal_scores"] if what == "scores" else entry["new"]["rules"]["mask"]
        path = folder / "files" / name
        path.write_bytes(path.read_bytes() + b" ")
    code, _, stderr = run(
        capfd, "inspect", product / "test/good", "--model", own_model, "--out", tmp_path / "out"
    )
    assert code == 4 and "from a backup" in stderr and stderr.count("\n") == 1
    with pytest.raises(BundleError):
        read_bundle(own_model)
    assert not (tmp_path / "out").exists(), "nothing was judged"


def test_a_fit_in_the_place_of_a_tuned_model_says_what_drops_out(product: Path, own_model: Path) -> None:
    bundle = read_bundle(own_model)
    bundle.versions.add(changed(bundle, cut=Cut(9.0)), born(bundle), why="check", facts={})
    told: list[str] = []
    again = fit(product, own_model, RunConfig.load(None, list(QUICK)), overwrite=True, say=told.append)
    assert any("version 1 was in force" in sentence for sentence in told)
    assert again.bundle.refreshed().detector.policy.version == 0
