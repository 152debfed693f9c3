"""How large a defect is, from its mask at the photo's own resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from anomaly.errors import ConfigError

Mask = NDArray[np.bool_]
Measure = Literal["length", "root-area"]


def length(component: Mask) -> float:
    """Longest extent in px (largest Feret diameter): of the farthest pixel centres, and one pixel."""
    contours, _ = cv2.findContours(component.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(contours))[:, 0].astype(np.float64)
    return float(pdist(hull).max()) + 1 if len(hull) > 1 else 1.0


def root_area(component: Mask) -> float:
    """Square root of the area, px."""
    return float(np.sqrt(np.count_nonzero(component)))


MEASURES: Mapping[Measure, Callable[[Mask], float]] = {"length": length, "root-area": root_area}
WORDS: Mapping[Measure, str] = {
    "length": "longest extent of the largest connected area of its mask (Feret diameter)",
    "root-area": "square root of the largest connected area of its mask",
}


def defect_size(mask: Mask, measure: Measure) -> float | None:
    """Size in px of the largest connected area (8 neighbours) of a mask (H, W); None for an empty mask."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sizes = []
    for index in range(1, count):
        left, top, width, height, _ = stats[index]
        box = labels[top : top + height, left : left + width]
        sizes.append(MEASURES[measure](box == index))
    return max(sizes, default=None)


def in_mm(size: float | None, px_per_mm: float | None) -> float | None:
    """A size in px as mm; None where either is not known."""
    return None if size is None or px_per_mm is None else size / px_per_mm


def check_scale(px_per_mm: float | None) -> None:
    """Raise ConfigError for a scale that cannot be."""
    if px_per_mm is not None and not (np.isfinite(px_per_mm) and px_per_mm > 0):
        raise ConfigError(f"px-per-mm must be a number above 0, got {px_per_mm:g}: count the px along 10 mm")
