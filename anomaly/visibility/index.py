"""From scores of untouched and changed photos to visibility and the suppression index.

    V = mean over magnitudes of max(0, 2 AUROC - 1)          visibility of a probe, in [0, 1]
    S = 1 - mean over probes of V                            suppression index of a scorer, in [0, 1]

0: every probe is told from the untouched photos at every magnitude; 1: none is, at any. The photo is what
is drawn again for the interval of S, with all its changed versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from anomaly.errors import DataError
from anomaly.metrics import auroc_interval, image_auroc

Floats = NDArray[np.float64]

PASSED = 0.9
"""AUROC from which on a probe counts as seen."""
DRAWS = 1000
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """How one scorer sees one probe."""

    auroc: tuple[float, ...]
    """Against the untouched photos, by magnitude."""
    intervals: tuple[Interval, ...]
    """95 %. Changed and untouched photos are the same photos, which these intervals ignore: they are wide."""
    visibility: float
    passes_at: float | None
    """Magnitude from which on the AUROC is .9 or more; between two of them on a log scale; None: never."""


def seen(untouched: ArrayLike, changed: ArrayLike, magnitudes: Sequence[float]) -> Seen:
    """From scores (N,) of untouched photos and (K, N) of their changed versions at K magnitudes."""
    before, after = _scores(untouched, changed)
    aurocs, intervals = [], []
    for row in after:
        values = np.concatenate([before, row])
        labels = np.repeat([False, True], [len(before), len(row)])
        auroc, interval = image_auroc(values, labels), auroc_interval(values, labels)
        assert auroc is not None and interval is not None
        aurocs.append(auroc)
        intervals.append(interval)
    return Seen(tuple(aurocs), tuple(intervals), visibility(aurocs), passes_at(magnitudes, aurocs))


def visibility_of(untouched: ArrayLike, changed: ArrayLike) -> float:
    """`visibility` from scores (N,) and (K, N)."""
    before, after = _scores(untouched, changed)
    above = (after[:, :, None] > before) + 0.5 * (after[:, :, None] == before)
    return visibility(above.mean(axis=(1, 2)))


def visibility(aurocs: ArrayLike) -> float:
    """Mean of max(0, 2 AUROC - 1) over magnitudes."""
    return float(np.maximum(0, 2 * np.asarray(aurocs, np.float64) - 1).mean())


def suppression_index(visibilities: ArrayLike) -> float:
    """1 - mean visibility over probes; at least one."""
    return 1 - float(np.asarray(visibilities, np.float64).mean())


def passes_at(magnitudes: Sequence[float], aurocs: Sequence[float], level: float = PASSED) -> float | None:
    """The magnitude from which on all AUROCs are at least `level`; the least one where all are."""
    low = next((k for k in range(len(aurocs) - 1, -1, -1) if aurocs[k] < level), -1)
    if low == len(aurocs) - 1:
        return None
    if low < 0:
        return float(magnitudes[0])
    share = (level - aurocs[low]) / (aurocs[low + 1] - aurocs[low])
    return float(magnitudes[low] * (magnitudes[low + 1] / magnitudes[low]) ** share)


def suppression_interval(
    untouched: ArrayLike, changed: Mapping[str, ArrayLike], seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Interval of the suppression index: Student's, with the spread of a bootstrap over photos.

    Photos are drawn again with all that is theirs. A photo drawn twice is not paired with itself more often
    than it was: such pairs are easy, and an ordinary bootstrap of few photos would see too much. It covers
    about 93 % with 12 photos.
    """
    rng = np.random.default_rng(seed)
    before = np.asarray(untouched, np.float64)
    n = len(before)
    weights = rng.multinomial(n, np.full(n, 1 / n), DRAWS) / n  # (draws, photos)
    weights = weights[weights.max(axis=1) < 1]
    others = 1 - np.square(weights).sum(axis=1)
    total = np.zeros(len(weights))
    for values in changed.values():
        _, after = _scores(before, values)
        above = (after[:, :, None] > before) + 0.5 * (after[:, :, None] == before)  # (K, N, N)
        own = np.diagonal(above, axis1=1, axis2=2)  # (K, N): a photo against itself
        apart = above * (1 - np.eye(n))
        paired = np.einsum("di,kij,dj->dk", weights, apart, weights, optimize=True)
        auroc = (weights @ own.T) / n + (1 - 1 / n) * paired / others[:, None]
        total += np.maximum(0, 2 * auroc - 1).mean(axis=1)
    spread = float(total.std()) / len(changed) * np.sqrt(n / (n - 1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * spread
    value = suppression_index([visibility_of(before, after) for after in changed.values()])
    return max(0.0, value - half), min(1.0, value + half)


def _scores(untouched: ArrayLike, changed: ArrayLike) -> tuple[Floats, Floats]:
    before, after = np.asarray(untouched, np.float64), np.asarray(changed, np.float64)
    if after.ndim != 2 or after.shape[1:] != before.shape or before.size < 2:
        raise DataError(
            f"scores of {before.shape} untouched and {after.shape} changed photos do not pair: "
            "give at least two photos, each changed at every magnitude"
        )
    return before, after
