"""Which scores of good photos stand out of the others: photos to be looked at again.

Rosner, Percentage points for a generalized ESD many-outlier procedure, Technometrics 25 (1983), one-sided,
on the logarithms of the scores, which have less of a tail to the right than the scores themselves. One photo
that is far from good can push those of all others below 0; then on the scores as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

FEWEST = 8
"""Scores from which on it is asked."""
MOST = 5
"""Photos that may stand out, and at most a tenth of them."""
LEVEL = 0.05
"""The chance that any of good photos is named, were the logarithms of their scores normal: the cost of a
false alarm is a look at one photo."""


def standing_out(scores: npt.ArrayLike) -> list[int]:
    """Indices of those of N scores (N,) that stand out above the others, the highest first."""
    values = np.asarray(scores, np.float64)
    if values.size < FEWEST:
        return []
    values = np.log(values) if (values > 0).all() else values
    order = np.argsort(-values, kind="stable")
    most = min(MOST, max(1, values.size // 10))
    p_values = [_grubbs(values[order[left_out:]]) for left_out in range(most)]
    found = max((i + 1 for i, p in enumerate(p_values) if p < LEVEL), default=0)
    return [int(i) for i in order[:found]]


def _grubbs(values: npt.NDArray[np.float64]) -> float:
    """An upper bound of the chance that the first, the highest of N draws from one normal distribution, lies
    as many standard deviations above their mean."""
    n, spread = values.size, values.std(ddof=1)
    if not spread > 1e-12:
        return 1.0
    square = ((values[0] - values.mean()) / spread) ** 2
    rest = (n - 1) ** 2 - n * square
    t = np.sqrt(n * (n - 2) * square / rest) if rest > 0 else np.inf
    return float(min(1.0, n * stats.t.sf(t, n - 2)))
