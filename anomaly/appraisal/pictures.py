"""Small pictures of judged photos for a report."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.bundle import Bundle
from anomaly.inspection.drawing import colour_ceiling
from anomaly.inspection.stream import Judged
from anomaly.render import jpeg_bytes, overlay, thumbnail

SIDE = 300
"""Longest side of a picture, px."""
MASK_COLOUR = (255, 221, 0)

Named = tuple[str, bytes]


def photo_picture(look: Judged) -> Named:
    """The photo as it is."""
    assert look.photo is not None
    return "photo", jpeg_bytes(thumbnail(look.photo, SIDE))


def heat_picture(bundle: Bundle, look: Judged, caption: str = "heatmap") -> Named:
    """The anomaly map over the photo, in the colours that `inspect` gives this model's maps."""
    assert look.photo is not None and look.anomaly_map is not None
    policy = bundle.detector.policy
    ceiling = colour_ceiling(policy.normal_scores, policy.cut.threshold)
    heat = overlay(look.photo, policy.seen(look.anomaly_map), policy.cut.threshold, ceiling)
    return caption, jpeg_bytes(thumbnail(heat, SIDE))


def mask_picture(look: Judged, mask: NDArray[np.bool_]) -> Named:
    """The photo with a line around the defect (H, W)."""
    assert look.photo is not None
    small = np.ascontiguousarray(thumbnail(look.photo, SIDE)).copy()
    where = cv2.resize(mask.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0
    around = cv2.dilate(where.astype(np.uint8), np.ones((5, 5), np.uint8))
    contours, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(small, contours, -1, MASK_COLOUR, 1)
    return "the defect", jpeg_bytes(small)
