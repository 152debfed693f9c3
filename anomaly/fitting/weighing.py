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
from anomaly.visibility.measure import measure

PHOTOS = 12
"""Held-out photos that defects are drawn on, at most."""
FAINT = slice(1, 3)
"""Which of a probe's magnitudes are drawn: small ones, that one branch may see and another not."""
SHARPNESS = 2
"""The power of its visibility that a branch weighs by."""
LEAST = 0.05
"""Share that a branch, or two of a kin, is given at least, before shares are brought to sum 1: drawn defects
are no sample of the real ones."""


def visibility_weights(detector: Detector, photos: Sequence[Photo], progress: Progress) -> dict[str, float]:
    """Weights of the branches of `detector`, sum 1, from working `photos` that it was not trained on.

    A branch weighs by the square of its visibility (see `anomaly.visibility.index`) of eight kinds of drawn
    defects at two small magnitudes, its mean over them; branches of a kin by that of the one which sees more,
    and share alike. All alike where nothing is seen, or nothing can be drawn.
    """
    scorers = detector.scorers
    equal = equal_weights(scorers)
    if len(scorers) < 2 or len(photos) < 2:
        return equal
    spread = np.linspace(0, len(photos) - 1, min(PHOTOS, len(photos))).round().astype(int)
    as_they_are = replace(detector, geometry=Geometry(max(photos[0].shape[:2]), 1.0))
    try:
        measured = measure(as_they_are, [photos[i] for i in spread], faint_defects(), progress=progress)
    except DataError:
        return equal

    def seen(name: str) -> float:
        return float(np.mean([graded.seen[name].visibility for graded in measured.graded]))

    kins = _kins(scorers)
    weights = np.array([max(map(seen, kin)) for kin in kins]) ** SHARPNESS
    if not weights.sum():
        return equal
    weights = np.maximum(weights / weights.sum(), LEAST)
    return _shared(scorers, kins, (weights / weights.sum()).tolist())


def equal_weights(scorers: Mapping[str, Scorer[Any]]) -> dict[str, float]:
    """Weights that let all branches count alike, those of a kin as one, sum 1."""
    kins = _kins(scorers)
    return _shared(scorers, kins, [1 / len(kins)] * len(kins))


def _kins(scorers: Mapping[str, Scorer[Any]]) -> list[list[str]]:
    """The branches, those of a kin together."""
    kins: dict[str, list[str]] = {}
    for name, scorer in scorers.items():
        kin = scorer.kin
        kins.setdefault(name if kin is None or kin not in scorers else kin, []).append(name)
    return list(kins.values())


def _shared(
    scorers: Mapping[str, Scorer[Any]], kins: list[list[str]], weights: list[float]
) -> dict[str, float]:
    """What each branch gets of the weight of its kin."""
    shares = {name: weight / len(kin) for kin, weight in zip(kins, weights, strict=True) for name in kin}
    return {name: shares[name] for name in scorers}


def faint_defects() -> list[Probe]:
    """The probes that draw a defect, at small magnitudes."""
    return [replace(one, magnitudes=one.magnitudes[FAINT]) for one in drawn_defects()]
