"""What scores of normal photos alone may promise: conformal p-values and order statistics.

Higher scores are more anomalous; a photo is anomalous if and only if score > threshold, compared in float64.
Every guarantee assumes that the photos are drawn independently from what the line will see: count parts,
not repeated shots of one part.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from anomaly.errors import CalibrationError
from anomaly.metrics import Floats, as_scores
from anomaly.quality.intervals import (
    allowed_failures,
    exact_share,
    upper_bound,
    zero_failure_sample_size,
)


def conformal_p_values(calibration: npt.ArrayLike, scores: npt.ArrayLike) -> Floats:
    """(1 + number of calibration scores >= s) / (n + 1) for each s: (N,) in (0, 1]."""
    known, new = np.sort(_calibration(calibration)), as_scores(scores)
    p_values: Floats = (1 + known.size - np.searchsorted(known, new, side="left")) / (known.size + 1)
    return p_values


def marginal_threshold(calibration: npt.ArrayLike, target_fpr: float) -> float:
    """The threshold above which the conformal p-value is at most `target_fpr`.

    Its false positive rate is at most the target on average over calibration sets; that of the one set at
    hand may well be higher (with 100 photos and 1 %: above 2.95 % for one set in twenty).
    """
    scores, alpha = np.sort(_calibration(calibration)), exact_share("target_fpr", target_fpr)
    n = scores.size
    if math.ceil((n + 1) * (1 - alpha)) > n:
        raise CalibrationError(
            f"target_fpr {target_fpr} needs at least {math.ceil(1 / alpha) - 1} calibration photos, got {n}: "
            f"add photos, or set calibration.target_fpr to {rounded_up(Fraction(1, n + 1))} or more"
        )
    return float(scores[math.ceil((n + 1) * (1 - alpha)) - 1])


def guaranteed_threshold(calibration: npt.ArrayLike, target_fpr: float, confidence: float = 0.95) -> float:
    """The lowest calibration score whose false positive rate is at most `target_fpr` with `confidence`.

    The rate above the l-th largest of n scores is at most Beta(l, n + 1 - l) distributed (equal without
    ties), so l - 1 is the number of failures that n photos allow (Vovk 2012, training-conditional validity).
    """
    scores = np.sort(_calibration(calibration))
    allowed = promised_failures("target_fpr", target_fpr, confidence, scores.size, "calibration")
    return float(scores[scores.size - 1 - allowed])


def smallest_promise(n: int, confidence: float = 0.95) -> float:
    """The smallest rate that `n` photos without a failure can promise: 0.049 for 60 at 95 %; 1 for none."""
    return upper_bound(0, n, confidence)


def promised_failures(name: str, rate: float, confidence: float, n: int, label: str) -> int:
    """Largest number of failures among `n` photos called `label` that still promises `rate`, asked for as
    `name`. CalibrationError, with what would do, where not even none would."""
    exact_share(name, rate)
    allowed = allowed_failures(n, rate, confidence)
    if allowed < 0:
        field = f"calibration.{name}" if name == "target_fpr" else name
        needed = zero_failure_sample_size(rate, confidence)
        possible = rounded_up(Fraction(smallest_promise(n, confidence)))
        raise CalibrationError(
            f"{name} {rate} with {100 * confidence:g} % confidence needs at least {needed} {label} photos, "
            f"got {n}: add photos, or set {field} to {possible} or more"
        )
    return allowed


def _calibration(scores: npt.ArrayLike) -> Floats:
    values = as_scores(scores)
    if not values.size:
        raise CalibrationError("there are no calibration photos: give normal photos that were not trained on")
    return values


def rounded_up(share: Fraction) -> str:
    """`share` in (0, 1) with two digits or more, never below it, and below 1."""
    digits = 1 - math.floor(math.log10(min(share, 1 - share)))
    return f"{float(Fraction(math.ceil(share * 10**digits), 10**digits)):g}"
