"""The same photos through the detector and through its exported graph: how far apart are they?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from anomaly.bundle import Bundle
from anomaly.detector import Detector, Photo, Scores
from anomaly.export.runtimes import Graph
from anomaly.records import Decision

TOLERANCE = 1e-3
"""Largest deviation of a score, relative to it, or absolute for scores below 1 (they are in standard
deviations of normal photos)."""
ROUNDS = 5
"""Times that a photo is scored for the time it takes; the least counts."""


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

    @property
    def trouble(self) -> str | None:
        """Why the export is not to be used, or None."""
        worst = max(self.deviation, self.map_deviation)
        if not worst <= TOLERANCE:
            return f"its scores deviate by {worst:.2g}, more than {TOLERANCE:g}"
        if self.verdicts_changed:
            return f"it changes {self.verdicts_changed} of {self.photos} verdicts"
        return None


def verify(bundle: Bundle, graph: Graph, runtime: str) -> Verification:
    """Score the reference photos, and each with a blot on it, in both."""
    detector = bundle.detector
    photos = [detector.geometry.working(photo) for photo in reference_photos(bundle)]
    deviations, map_deviations, changed = [0.0], [0.0], 0
    for photo in photos:
        score, anomaly_map = run_one(graph, photo)
        here = detector.score(photo)
        deviations.append(_deviation(score, here.image_score))
        map_deviations.append(_deviation(anomaly_map, here.anomaly_map))
        there = Scores(score, anomaly_map, {})
        changed += _decision(detector, there, photo) != _decision(detector, here, photo)
    times = {
        "torch": _milliseconds(lambda: detector.score(photos[0])),
        runtime: _milliseconds(lambda: run_one(graph, photos[0])),
    }
    return Verification(len(photos), max(deviations), max(map_deviations), changed, times)


def reference_photos(bundle: Bundle) -> list[Photo]:
    """The photos kept with the model, and each once more with a blot that no normal photo has."""
    kept = [bundle.detector.read(path) for path in sorted((bundle.path / "reference").iterdir())]
    return kept + [_blotted(photo) for photo in kept]


def run_one(graph: Graph, photo: Photo) -> tuple[float, Any]:
    """Score and map (h, w) of one working photo (H, W, 3)."""
    scores, maps = graph.run(np.ascontiguousarray(photo[None]))
    return float(scores[0]), maps[0]


def _decision(detector: Detector, scores: Scores, photo: Photo) -> Decision:
    return detector.policy.cut.decide(detector.judged_score(scores, photo.shape[:2]))


def _blotted(photo: Photo) -> Photo:
    blotted = photo.copy()
    height, width = photo.shape[:2]
    colour = tuple(int(value) for value in 255 - photo[height // 2, width // 2])
    cv2.circle(blotted, (width // 2, height // 2), max(1, min(height, width) // 10), colour, -1)
    return blotted


def _deviation(values: Any, expected: Any) -> float:
    """Largest |values - expected| / max(1, |expected|); infinite where one is not a number."""
    values, expected = np.asarray(values, np.float64), np.asarray(expected, np.float64)
    apart = np.abs(values - expected) / np.maximum(1, np.abs(expected))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0))


def _milliseconds(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(1000 * min(times), 2)
