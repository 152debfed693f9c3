"""Branches weigh by what they see of defects drawn on good photos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly.bundle import read_bundle
from anomaly.fitting.weighing import LEAST, faint_defects, visibility_weights
from anomaly.inspection.writer import model_facts
from anomaly.maps import MapStatistics
from anomaly.models.training import Silent
from anomaly.probes import PROBES
from tests.conftest import draw_photo

PLAIN = MapStatistics(np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))


class Blind:
    """Every photo looks the same to it."""

    input = "features"
    limited = False
    kin = None

    def score(self, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(values.shape[1:])


@pytest.fixture
def photos(model: Path) -> list[np.ndarray]:
    geometry = read_bundle(model).detector.geometry
    return [geometry.working(draw_photo(np.random.default_rng(seed))) for seed in range(6)]


def test_a_branch_that_sees_nothing_counts_least(model: Path, photos: list[np.ndarray]) -> None:
    detector = read_bundle(model).detector
    scorers = {**detector.scorers, "blind": Blind()}
    blind = replace(detector, scorers=scorers, statistics={**detector.statistics, "blind": PLAIN})
    blind = replace(blind, weights=dict.fromkeys(scorers, 1 / len(scorers)))
    found = visibility_weights(blind, photos, Silent())
    assert list(found) == list(scorers)
    assert sum(found.values()) == pytest.approx(1)
    assert found["blind"] == min(found.values()) == pytest.approx(LEAST, rel=0.2)


def test_branches_that_see_the_same_share_alike(model: Path, photos: list[np.ndarray]) -> None:
    detector = read_bundle(model).detector
    one = detector.scorers["texture"], detector.statistics["texture"]
    twins = replace(
        detector,
        scorers={"a": one[0], "b": one[0]},
        statistics={"a": one[1], "b": one[1]},
        weights={"a": 0.5, "b": 0.5},
    )
    assert visibility_weights(twins, photos, Silent()) == pytest.approx({"a": 0.5, "b": 0.5})


def test_one_branch_or_one_photo_leaves_nothing_to_choose(model: Path, photos: list[np.ndarray]) -> None:
    detector = read_bundle(model).detector
    alone = replace(
        detector, scorers={"embedding": detector.scorers["embedding"]}, weights={"embedding": 1.0}
    )
    assert visibility_weights(alone, photos, Silent()) == {"embedding": 1.0}
    assert visibility_weights(detector, photos[:1], Silent()) == dict.fromkeys(detector.scorers, 1 / 4)


def test_two_sizes_of_one_branch_weigh_by_what_the_better_sees(model: Path, photos: list[np.ndarray]) -> None:
    detector = read_bundle(model).detector
    found = visibility_weights(detector, photos, Silent())
    assert found["embedding"] == found["coarse"]
    alone = {name: scorer for name, scorer in detector.scorers.items() if name != "embedding"}
    seen = visibility_weights(replace(detector, scorers=alone), photos, Silent())
    assert seen["coarse"] / seen["texture"] < found["coarse"] / found["texture"]


def test_only_defects_are_drawn_and_none_at_its_largest() -> None:
    for probe in faint_defects():
        assert probe.kind == "defect"
        assert max(probe.magnitudes) < max(PROBES.get(probe.name).magnitudes)


def test_a_report_says_how_much_each_branch_counts(model: Path) -> None:
    bundle = read_bundle(model)
    told = model_facts(bundle)["branches"]
    assert list(told) == list(bundle.detector.scorers)
    for name, weight in bundle.detector.weights.items():
        assert float(told[name].removesuffix(" %")) == pytest.approx(100 * weight, abs=0.5)
