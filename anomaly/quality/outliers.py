"""Whether the highest score of good photos stands out of the others: a photo to be looked at again.

Grubbs, Sample criteria for testing outlying observations, Ann. Math. Stat. 21 (1950), one-sided, on the
logarithms of the scores, which have less of a tail to the right than the scores themselves. One photo that is
far from good can push those of all others below 0; then on the scores as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

FEWEST = 8
"""Scores from which on it is asked."""
LEVEL = 0.05
"""The p-value below which the highest stands out: the cost of a false alarm is a look at one photo."""


def highest_stands_out(scores: npt.ArrayLike) -> float | None:
    """The chance that the highest of N scores (N,) stands out as much as it does, were their logarithms
    draws from one normal distribution: an upper bound. None where they are few, or all the same."""
    values = np.asarray(scores, np.float64)
    n = values.size
    if n < FEWEST:
        return None
    values = np.log(values) if (values > 0).all() else values
    spread = values.std(ddof=1)
    if not spread > 1e-12:
        return None
    square = ((values.max() - values.mean()) / spread) ** 2
    rest = (n - 1) ** 2 - n * square
    t = np.sqrt(n * (n - 2) * square / rest) if rest > 0 else np.inf
    return float(min(1.0, n * stats.t.sf(t, n - 2)))
