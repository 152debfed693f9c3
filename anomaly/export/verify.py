"""The same photos through the detector and through its exported graphs: how far apart are they?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from anomaly.bundle import Bundle
from anomaly.detector import Detector, Photo, Scores, placed
from anomaly.export.runtimes import FULL, Graph
from anomaly.maps import LIMIT
from anomaly.records import Decision
from anomaly.scorers import SCORERS, Searching

TOLERANCE = 1e-3
"""Largest deviation of a score in float32, relative to it, or absolute for scores below 1 (they are in
standard deviations of normal photos). Lower precisions have none: the reference photos lie in the memory
bank, where their distance is 0 and noise all there is. Their loss is measured on labelled photos."""
ROUNDS = 5
"""Times that a photo is scored for the time it takes; the least counts."""

Score = Callable[[Photo], Scores]


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    photos: int
    deviation: float
    """Largest deviation of an image score from torch."""
    map_deviation: float
    """Likewise of any value of a map."""
    verdicts_changed: int
    milliseconds: dict[str, float]
    """Time of one photo in torch and in the runtime, the same threads."""
    precision: str = FULL

    @property
    def trouble(self) -> str | None:
        """Why the export is not to be used, or None."""
        worst = max(self.deviation, self.map_deviation)
        if self.precision == FULL and not worst <= TOLERANCE:
            return f"its scores deviate by {worst:.2g}, more than {TOLERANCE:g}"
        if not np.isfinite(worst):
            return "some of its scores are no numbers"
        if self.verdicts_changed:
            return f"it changes {self.verdicts_changed} of {self.photos} verdicts"
        return None


@dataclass(frozen=True)
class BranchScorer:
    """Scores photos of any size: the branches in a runtime, the rest in the detector, to the last digit as
    it does in torch. Photos too large for the graph, which knows no tiles, are the detector's alone."""

    detector: Detector
    graph: Graph

    def __call__(self, photo: Photo) -> Scores:
        view = self.detector.geometry.view(photo)
        working = view.photo
        if max(working.shape[:2]) > self.detector.config.image.tile_size:
            return self.detector.score(photo)
        outputs = self.graph.run(np.ascontiguousarray(working[None]))
        maps = {}
        for name, values in zip(self.detector.scorers, outputs, strict=True):
            if not issubclass(SCORERS.get(name), Searching):
                maps[name] = values[0, 0]
                continue
            scorer = self.detector.scorers[name]
            assert isinstance(scorer, Searching)
            maps[name] = scorer.search(values[0])
            if scorer.limited:
                maps[name + LIMIT] = scorer.search_limit(values[0])
        return self.detector.combine(maps, view.place)


@dataclass(frozen=True)
class WholeScorer:
    """Scores photos by the graph that does everything, as a program without torch does."""

    detector: Detector
    graph: Graph

    def __call__(self, photo: Photo) -> Scores:
        view = self.detector.geometry.view(photo)
        return placed(Scores(*run_one(self.graph, view.photo), {}), view.place)


def verify(bundle: Bundle, scorers: Sequence[Score], runtime: str, precision: str = FULL) -> Verification:
    """Score the reference photos, and each with a blot on it, in torch and by each of `scorers`, the last of
    which is timed under the name `runtime`."""
    detector = bundle.detector
    photos = reference_photos(bundle)
    deviations, map_deviations, changed = [0.0], [0.0], 0
    for photo in photos:
        here = detector.score(photo)
        verdict = decision(detector, here, photo)
        for score in scorers:
            there = score(photo)
            deviations.append(deviation(there.image_score, here.image_score))
            map_deviations.append(deviation(there.anomaly_map, here.anomaly_map))
            changed += decision(detector, there, photo) != verdict
    times = {
        "torch": _milliseconds(lambda: detector.score(photos[0])),
        runtime: _milliseconds(lambda: scorers[-1](photos[0])),
    }
    return Verification(len(photos), max(deviations), max(map_deviations), changed, times, precision)


def reference_photos(bundle: Bundle) -> list[Photo]:
    """The photos kept with the model, and each once more with a blot that no normal photo has."""
    kept = [bundle.detector.read(path) for path in sorted((bundle.path / "reference").iterdir())]
    return kept + [_blotted(photo) for photo in kept]


def run_one(graph: Graph, photo: Photo) -> tuple[float, Any]:
    """Score and map (h, w) of one working photo (H, W, 3) by the graph that does everything."""
    scores, maps = graph.run(np.ascontiguousarray(photo[None]))
    return float(scores[0]), maps[0]


def decision(detector: Detector, scores: Scores, photo: Photo, group: str | None = None) -> Decision:
    """What the policy in force says of `photo` at these scores. Raises ImageError, see `judged_score`."""
    return detector.policy.cut_of(group).decide(detector.judged_score(scores, photo.shape[:2]))


def deviation(values: Any, expected: Any) -> float:
    """Largest |values - expected| / max(1, |expected|); infinite where one is not a number."""
    values, expected = np.asarray(values, np.float64), np.asarray(expected, np.float64)
    if values.shape != expected.shape:
        return float("inf")
    apart = np.abs(values - expected) / np.maximum(1, np.abs(expected))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0))


def _blotted(photo: Photo) -> Photo:
    blotted = photo.copy()
    height, width = photo.shape[:2]
    colour = tuple(int(value) for value in 255 - photo[height // 2, width // 2])
    cv2.circle(blotted, (width // 2, height // 2), max(1, min(height, width) // 10), colour, -1)
    return blotted


def _milliseconds(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(1000 * min(times), 2)
