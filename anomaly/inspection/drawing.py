"""The pictures of what is not normal, encoded where the photo was judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from anomaly.data.geometry import small_picture
from anomaly.detector import Detector
from anomaly.inspection.gallery import Pictures
from anomaly.inspection.stream import Judged, lacks_memory, too_large
from anomaly.records import Verdict
from anomaly.render import jpeg_bytes, outline, overlay, png_bytes, thumbnail

SIDE = 360
"""Longest side of a picture in the report, px."""


@dataclass(frozen=True)
class Drawn:
    """A verdict and its pictures, encoded; None for a photo that is normal or could not be read."""

    verdict: Verdict
    heatmap: bytes | None = None
    anomaly_map: bytes | None = None
    gallery: Pictures | None = None


def draw(detector: Detector, judged: Judged, wanted: Callable[[float], bool]) -> Drawn:
    """Encode the pictures of what is not normal; the photo and its map are no longer needed then.

    `wanted` tells by its score whether a photo may come into the report. A photo whose pictures memory does
    not suffice for is judged `error`, as one that cannot be scored is. Safe to call from threads.
    """
    try:
        return _drawn(detector, judged, wanted)
    except Exception as error:
        if not lacks_memory(error):
            raise
        verdict = too_large(detector, judged.verdict.path, judged.verdict.group)
        return Drawn(replace(verdict, milliseconds=judged.verdict.milliseconds))


def _drawn(detector: Detector, judged: Judged, wanted: Callable[[float], bool]) -> Drawn:
    verdict, photo, values = judged.verdict, judged.photo, judged.anomaly_map
    if photo is None or values is None or verdict.decision not in ("anomalous", "review"):
        return Drawn(verdict)
    assert verdict.image_score is not None and verdict.threshold is not None
    policy, threshold = detector.policy, verdict.threshold
    seen = policy.seen(values)
    heat = overlay(photo, seen, threshold, colour_ceiling(policy.normal_scores, threshold))
    pictures: Pictures | None = None
    if wanted(verdict.image_score):
        low = threshold if verdict.decision == "anomalous" else verdict.review_threshold
        assert low is not None
        pictures = {
            "original": jpeg_bytes(thumbnail(photo, SIDE)),
            "heatmap": jpeg_bytes(thumbnail(heat, SIDE)),
            "outline": jpeg_bytes(thumbnail(outline(photo, seen, low), SIDE)),
            "small": None if detector.picture is None else png_bytes(small_picture(photo)),
        }
    return Drawn(verdict, png_bytes(heat), bytes(cv2.imencode(".tiff", values)[1]), pictures)


def colour_ceiling(scores: np.ndarray[Any, np.dtype[np.float64]], threshold: float) -> float:
    """Where the colour scale ends: as far again above the threshold as four times its way from the median."""
    return threshold + 4 * max(threshold - float(np.median(scores)), 0.1 * abs(threshold), 1e-6)


def expected_jpeg(detector: Detector, small: bytes) -> bytes | None:
    """What the model expected to see, from the encoded `small` picture of a photo."""
    photo = cv2.cvtColor(cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    expected = detector.expected(np.asarray(photo, np.uint8))
    return None if expected is None else jpeg_bytes(expected)
