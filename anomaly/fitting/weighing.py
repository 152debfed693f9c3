"""How much each branch counts in the fused map: by what it sees of small drawn defects on good photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from anomaly.data.geometry import Geometry
from anomaly.detector import Detector, Photo
from anomaly.errors import DataError
from anomaly.models.training import Progress
from anomaly.probes import Probe, drawn_defects
from anomaly.visibility.measure import measure

PHOTOS = 12
"""Held-out photos that defects are drawn on, at most."""
FAINT = slice(1, 3)
"""Which of a probe's magnitudes are drawn: small ones, that one branch may see and another not."""
SHARPNESS = 2
"""The power of its visibility that a branch weighs by."""
LEAST = 0.05
"""Share that no branch falls below: drawn defects are no sample of the real ones."""


def visibility_weights(detector: Detector, photos: Sequence[Photo], progress: Progress) -> dict[str, float]:
    """Weights of the branches of `detector`, sum 1, from working `photos` that it was not trained on.

    A branch weighs by the square of its visibility (see `anomaly.visibility.index`) of eight kinds of drawn
    defects at two small magnitudes, its mean over them. Alike where nothing is seen, or nothing can be drawn.
    """
    names = list(detector.scorers)
    equal = dict.fromkeys(names, 1 / len(names))
    if len(names) < 2 or len(photos) < 2:
        return equal
    spread = np.linspace(0, len(photos) - 1, min(PHOTOS, len(photos))).round().astype(int)
    as_they_are = replace(detector, geometry=Geometry(max(photos[0].shape[:2]), 1.0))
    try:
        measured = measure(as_they_are, [photos[i] for i in spread], faint_defects(), progress=progress)
    except DataError:
        return equal
    seen = [np.mean([graded.seen[name].visibility for graded in measured.graded]) for name in names]
    weights = np.array(seen) ** SHARPNESS
    if not weights.sum():
        return equal
    weights = np.maximum(weights / weights.sum(), LEAST)
    return dict(zip(names, (weights / weights.sum()).tolist(), strict=True))


def faint_defects() -> list[Probe]:
    """The probes that draw a defect, at small magnitudes."""
    return [replace(one, magnitudes=one.magnitudes[FAINT]) for one in drawn_defects()]
