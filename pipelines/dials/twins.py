"""Drawn twins of real defects: the probe that stands for a type, as large and as faint as its defects are.

A catalogue of defects tells how large they are and how far they stand out; twins of these sizes and contrasts
are drawn on held-out good photos. How well a model tells the twins from the untouched photos is what one
would predict of the real defects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.appraisal.sizes import defect_size
from anomaly.data.foreground import foregrounds
from anomaly.detector import Photo
from anomaly.probes import PROBES
from anomaly.visibility.measure import generator

ROUNDS = 2
"""Twins of a type on each photo."""
NEAR = 3.0
"""Standard deviation of the window about a point of the outline, px."""
LEAST = 1.0
"""Contrast of a defect that hardly differs from its surroundings, grey levels."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Known:
    """One defect of the catalogue, at the working size."""

    size: float
    """Longest extent, px."""
    contrast: float
    """How far it stands out along its outline, see `edge_contrast`, grey levels."""


def described(photo: Photo, mask: Mask, working: Photo) -> Known | None:
    """The defect in `mask` (H, W) of `photo` as it looks in `working`; None for an empty mask."""
    size = defect_size(mask, "length")
    if size is None:
        return None
    height, width = working.shape[:2]
    size *= float(np.sqrt(height * width / (photo.shape[0] * photo.shape[1])))
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return Known(size, max(LEAST, edge_contrast(working.astype(np.float64).mean(axis=2), share)))


def edge_contrast(grey: NDArray[np.float64], share: NDArray[np.float32]) -> float:
    """Root mean square, along the outline, of what is inside minus what is outside close by, grey levels.

    `share` (H, W) in [0, 1] is how much of each pixel the defect covers. Means of a few px are compared, so
    structure of the product that runs through the outline does not count.
    """

    def near(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), NEAR), dtype=np.float64)

    inside, outside = share.astype(np.float64), 1 - share.astype(np.float64)
    both = np.maximum(near(inside) * near(outside), 0.0)
    if not both.any():
        return 0.0
    tiny = 1e-9
    step = near(grey * inside) / (near(inside) + tiny) - near(grey * outside) / (near(outside) + tiny)
    return float(np.sqrt((both * np.square(step)).sum() / both.sum()))


def drawn(photos: Sequence[Photo], name: str, known: Sequence[Known]) -> Iterator[Photo]:
    """Each of `photos` with a twin, ROUNDS times, taking what is `known` in turn.

    Where the probe has no contrast its size alone is taken; where it is not graded in px, its magnitudes
    are taken in turn.
    """
    probe = PROBES.get(name)
    areas = foregrounds(photos)
    for turn in range(ROUNDS * len(photos)):
        i = turn % len(photos)
        rng = generator(1 + turn // len(photos), name, i)
        if probe.unit == "px" and known:
            one = known[turn % len(known)]
            contrast = None if probe.contrast is None else one.contrast
            yield probe.apply(photos[i], areas[i], one.size, rng, contrast)[0]
        else:
            levels = probe.levels(photos[i].shape[:2])
            yield probe.apply(photos[i], areas[i], levels[turn % len(levels)], rng)[0]
