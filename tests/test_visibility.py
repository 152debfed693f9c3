"""Visibility: the formulas, what a scorer of known blindness gets, and the command as its user meets it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_photo
from test_commands import run

from anomaly.bundle import read_bundle
from anomaly.config import RunConfig
from anomaly.detector import Scores
from anomaly.errors import DataError
from anomaly.policy.policy import Cut, Policy
from anomaly.policy.regions import RegionRules
from anomaly.probes import PROBES, chosen
from anomaly.visibility.index import passes_at, seen, suppression_index, suppression_interval, visibility
from anomaly.visibility.measure import measure
from anomaly.visibility.photos import held_out
from anomaly.visibility.reading import answer, remedies

LEVELS = (1.0, 2.0, 4.0)


def test_visibility_is_the_mean_of_what_exceeds_chance() -> None:
    assert visibility([0.5, 0.75, 1.0]) == pytest.approx(0.5)
    assert visibility([0.1, 0.4]) == 0
    assert suppression_index([0.5, 0.25]) == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("aurocs", "at"),
    [
        ((0.5, 0.8, 1.0), 2 * 2**0.5),
        ((0.95, 0.9, 1.0), 1.0),
        ((0.95, 0.5, 1.0), 2 * 2**0.8),
        ((0.5, 0.6, 0.89), None),
        ((1.0, 1.0, 0.5), None),
    ],
)
def test_a_probe_is_seen_from_where_it_stays_above_nine_tenths(
    aurocs: tuple[float, ...], at: float | None
) -> None:
    assert passes_at(LEVELS, aurocs) == (None if at is None else pytest.approx(at))


def test_scores_become_aurocs_and_the_index_has_its_interval() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=30)
    changed = {"a": np.stack([before, before + 1, before + 9]), "b": np.stack([before, before, before + 1])}
    views = {name: seen(before, after, LEVELS) for name, after in changed.items()}
    assert views["a"].auroc[0] == pytest.approx(0.5) and views["a"].auroc[2] == 1
    assert views["a"].intervals[1][0] < views["a"].auroc[1] < views["a"].intervals[1][1]
    index = suppression_index([view.visibility for view in views.values()])
    low, high = suppression_interval(before, changed)
    assert low < index < high and high - low < 0.4
    assert (low, high) == suppression_interval(before, changed)
    more = rng.normal(size=300)
    narrow = suppression_interval(
        more, {"a": more + np.array([[0], [1], [9]]), "b": more + np.array([[0], [0], [1]])}
    )
    assert narrow[1] - narrow[0] < 0.6 * (high - low)
    assert suppression_interval(before, {"all": before + 9 * np.ones((3, 1))}) == (0, pytest.approx(0))
    with pytest.raises(DataError, match="do not pair"):
        seen(before, changed["a"][:, :5], LEVELS)


class OneBranch:
    """Scores a photo by its brightness alone; a second branch scores nothing."""

    def judged_score(self, scores: Scores, size: tuple[int, int]) -> float:
        return scores.image_score

    def score(self, photo: np.ndarray) -> Scores:
        brightness = float(photo.mean())
        return Scores(0.5 * brightness, np.zeros((1, 1), np.float32), {"light": brightness, "nothing": 0.0})


def test_a_scorer_of_brightness_sees_brightness_and_is_blind_to_the_rest() -> None:
    rng = np.random.default_rng(3)
    photos = [draw_photo(rng) for _ in range(6)]
    steps = []

    class Steps:
        def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
            steps.append((done, total))

    probes = chosen(["brighten", "mirror", "desaturate"])
    found = measure(OneBranch(), photos, probes, most_magnitudes=3, progress=Steps())
    views = {graded.probe.name: graded.seen for graded in found.graded}
    assert [len(graded.magnitudes) for graded in found.graded] == [3, 3, 3]
    assert steps[-1] == (6 * 10, 6 * 10) and len(steps) == 60
    assert views["brighten"]["light"].passes_at is not None
    assert views["brighten"]["nothing"].auroc == (0.5, 0.5, 0.5)
    assert views["mirror"]["fused"].visibility < 0.4
    assert found.index("nothing") == 1 and 0.3 < found.index() < 0.9
    fewer = replace(
        found,
        untouched={name: values[1:] for name, values in found.untouched.items()},
        graded=[
            replace(
                one,
                seen={
                    n: seen(found.untouched[n][1:], v[:, 1:], one.magnitudes) for n, v in one.scores.items()
                },
            )
            for one in found.graded
        ],
    )
    assert found.without_each("light")[0] == pytest.approx(fewer.index("light")) != found.index("light")
    again = measure(OneBranch(), photos, probes, most_magnitudes=3)
    assert again.index() == found.index()
    assert "does not see" in answer(found) and "mirror" in answer(found)
    sentences = "\n".join(remedies(found, RunConfig(), 128))
    assert "mirror: not up to" in sentences
    assert "lower contrastive.augmentation_strength (now 0.3)" in sentences
    assert "Expect little of it while the backbone is pretrained and frozen" in sentences
    alone = "\n".join(remedies(found, RunConfig(backbone="none"), 128))
    assert "lower contrastive.augmentation_strength" in alone and "frozen" not in alone


def test_probes_that_change_nothing_do_not_count() -> None:
    grey = [np.repeat(draw_photo(np.random.default_rng(i))[:, :, :1], 3, axis=2) for i in range(3)]
    found = measure(OneBranch(), grey, chosen(["tint", "brighten"]), most_magnitudes=2)
    assert found.without_effect == ["tint"] and [g.probe.name for g in found.graded] == ["brighten"]
    with pytest.raises(DataError, match=r"none of the probes \(tint\) shows on these photos"):
        measure(OneBranch(), grey, chosen(["tint"]))


def test_the_command_reports_what_the_model_sees(
    capfd: pytest.CaptureFixture[str], model: Path, product: Path, tmp_path: Path
) -> None:
    arguments = ("probe", product, "--model", model, "--out", tmp_path / "out", "--photos", 3)
    few = ("--probes", "spot,brighten", "--px-per-mm", 10)
    code, stdout, stderr = run(capfd, *arguments, *few, "--json")
    assert code == 0, stderr
    found = json.loads(stdout)
    assert found == json.loads((tmp_path / "out/result.json").read_text())
    assert found["photos"] == 3 and set(found["probes"]) == {"spot", "brighten"}
    assert set(found["scorers"]) == {"reconstruction", "embedding", "coarse", "texture", "fused"}
    spot = found["probes"]["spot"]
    assert spot["magnitudes"] == [4, 8, 14, 24, 40] and spot["unit"] == "px" and spot["contrast"] == 40
    assert spot["magnitudes_mm"] == pytest.approx([0.4, 0.8, 1.4, 2.4, 4])
    assert "magnitudes_mm" not in found["probes"]["brighten"]
    assert spot["scorers"]["fused"]["auroc"][-1] == 1
    assert 0 <= found["suppression_index"] <= 1 and found["suppression_index_interval"] is None
    assert spot["scorers"]["fused"]["auroc_interval"] is None, "of three photos"
    page = (tmp_path / "out/report.html").read_text()
    assert "suppression index" in page and " mm)" in page and page.count("data:image/jpeg") == 6
    code, _, stderr = run(capfd, *arguments, *few)
    assert code == 3 and "already holds report.html" in stderr
    code, stdout, stderr = run(capfd, *arguments, "--probes", "brighten", "--overwrite")
    assert code == 0 and "brighten: " in stdout and "visibility" not in stderr.replace("visibility.html", "")
    assert stdout.startswith("In these 3 photos the model ") and "without an interval" in stdout


def test_the_version_in_force_draws_and_scores(
    capfd: pytest.CaptureFixture[str],
    own_model: Path,
    product: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = read_bundle(own_model)
    mask = np.zeros((96, 128), bool)
    mask[:, :40] = True
    born = Policy.born(bundle.detector.calibration)
    rules = RegionRules(mask, (96, 128))
    bundle.versions.add(replace(born, cut=Cut(123.0), rules=rules), born, why="the left alone", facts={})
    drawn = []

    def record(photo: np.ndarray, values: np.ndarray, threshold: float, ceiling: float) -> np.ndarray:
        drawn.append((threshold, np.isfinite(values[:, :30]).all(), np.isneginf(values[:, 50:]).all()))
        return photo

    monkeypatch.setattr("anomaly.visibility.report.overlay", record)
    few = ("--photos", 2, "--probes", "brighten", "--json")
    out = ("--out", tmp_path / "out")
    code, _, stderr = run(capfd, "probe", product, "--model", own_model, *out, *few)
    assert code == 0, stderr
    assert drawn == [(123.0, True, True)]
    pictures = held_out(bundle, [product], 2)[0]
    measured = measure(read_bundle(own_model).detector, pictures, chosen(["brighten"]))
    raw = [bundle.detector.score(photo) for photo in pictures]
    share = bundle.detector.config.fusion.top_share
    expected = [rules.score(scores.anomaly_map, (96, 128), share) for scores in raw]
    assert measured.untouched["fused"] == pytest.approx(expected)


def test_photos_that_were_trained_on_are_refused(
    capfd: pytest.CaptureFixture[str], model: Path, product: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, _, stderr = run(capfd, "probe", product / "train/good", "--model", model, "--out", out)
    assert code == 3 and "was used to fit this model" in stderr
    code, _, stderr = run(
        capfd, "probe", product / "test/good/000.png", "--model", model, "--out", out, "--photos", 4
    )
    assert code == 3 and "at least 2 held-out normal photos, got 1" in stderr
    code, _, stderr = run(capfd, "probe", product, "--model", model, "--out", out, "--probes", "spott")
    assert code == 2 and "did you mean 'spot'?" in stderr


def test_the_documented_command_runs(
    capfd: pytest.CaptureFixture[str],
    model: Path,
    product: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = Path(__file__).parent.parent / "docs/visibility.md"
    command = next(line for line in page.read_text().splitlines() if line.startswith("anomaly probe "))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/held_out").symlink_to(product / "test/good")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/cap").symlink_to(model)
    few = ("--photos", 2, "--probes", "grain")
    code, _, stderr = run(capfd, *command.split()[1:], *few)
    assert code == 0, stderr
    assert (tmp_path / "visibility/report.html").exists()
    listed = set(re.findall(r"`(\w+)`", re.search(r"\| all of.*?\n\n", page.read_text(), re.S).group()))
    assert listed == set(PROBES.names())
