"""How much each branch counts in the fused map: by what it sees of small drawn defects on good photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from anomaly.data.geometry import Geometry
from anomaly.detector import Detector, Photo
from anomaly.errors import DataError
from anomaly.models.training import Progress
from anomaly.probes import Probe, drawn_defects
from anomaly.scorers import Scorer
from anomaly.spread import evenly
from anomaly.visibility.measure import measure

PHOTOS = 12
"""Held-out photos that defects are drawn on, at most."""
FAINT = slice(1, 3)
"""Which of a probe's magnitudes are drawn: small ones, that one branch may see and another not."""
SHARPNESS = 2
"""The power of its visibility that a branch weighs by."""
LEAST = 0.05
"""Share that a branch is given at least, before shares are brought to sum 1: drawn defects are no sample of
the real ones."""


def visibility_weights(detector: Detector, photos: Sequence[Photo], progress: Progress) -> dict[str, float]:
    """Weights of the branches of `detector`, sum 1, from working `photos` that it was not trained on.

    A branch weighs by the square of its visibility (see `anomaly.visibility.index`) of eight kinds of drawn
    defects at two small magnitudes, its mean over them; two of a kin both by that of the one which sees more.
    All alike where nothing is seen, or nothing can be drawn.
    """
    scorers = detector.scorers
    equal = equal_weights(scorers)
    if len(scorers) < 2 or len(photos) < 2:
        return equal
    as_they_are = replace(detector, geometry=Geometry(max(photos[0].shape[:2]), 1.0))
    try:
        measured = measure(as_they_are, evenly(photos, PHOTOS), faint_defects(), progress=progress)
    except DataError:
        return equal

    best: dict[str, float] = {}
    for name in scorers:
        seen = float(np.mean([graded.seen[name].visibility for graded in measured.graded]))
        kin = _kin(name, scorers)
        best[kin] = max(seen, best.get(kin, seen))
    weights = np.array([best[_kin(name, scorers)] for name in scorers]) ** SHARPNESS
    if not weights.sum():
        return equal
    weights = np.maximum(weights / weights.sum(), LEAST)
    return dict(zip(scorers, (weights / weights.sum()).tolist(), strict=True))


def equal_weights(scorers: Mapping[str, Scorer[Any]]) -> dict[str, float]:
    """Weights that let all branches count alike, sum 1."""
    return dict.fromkeys(scorers, 1 / len(scorers))


def _kin(name: str, scorers: Mapping[str, Scorer[Any]]) -> str:
    """The branch that `name` looks at the photo with, in another size; itself where it has none."""
    kin = scorers[name].kin
    return name if kin is None or kin not in scorers else kin


def faint_defects() -> list[Probe]:
    """The probes that draw a defect, at small magnitudes."""
    return [replace(one, magnitudes=one.magnitudes[FAINT]) for one in drawn_defects()]
