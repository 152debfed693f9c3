"""The threshold that a model is born with, and what it promises: from held-out normal photos alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from anomaly.config import CalibrationConfig
from anomaly.metrics import Floats
from anomaly.quality.intervals import zero_failure_sample_size
from anomaly.quality.order_statistics import guaranteed_threshold, marginal_threshold


@dataclass(frozen=True)
class Calibration:
    """Scores of the calibration photos, sorted, and the threshold that an order statistic takes from them."""

    scores: Floats
    config: CalibrationConfig
    threshold: float
    groups: tuple[str, ...] = ()
    """The lots, parts or cameras that the photos are of, where they are known."""

    @classmethod
    def of(cls, scores: Floats, config: CalibrationConfig) -> Calibration:
        """Raises CalibrationError, which says how many photos are needed, where there are too few."""
        scores = np.sort(np.asarray(scores, dtype=np.float64))
        if config.guarantee == "marginal":
            threshold = marginal_threshold(scores, config.target_fpr)
        else:
            threshold = guaranteed_threshold(scores, config.target_fpr, config.confidence)
        return cls(scores, config, threshold)

    @property
    def guarantee(self) -> str:
        """The promise in words."""
        like = f"normal photos like the {len(self.scores)} calibration photos{of_groups(self.groups)}"
        said = f"At most {100 * self.config.target_fpr:g} % of {like} are called anomalous, "
        if self.config.guarantee == "marginal":
            said += "on average over such calibrations; with these very photos it may be more."
        else:
            said += f"with {100 * self.config.confidence:g} % confidence."
        return said + few_groups(self.groups)


FEW_GROUPS = 5
"""Groups below which a promise says that it is about photos like theirs."""


def of_groups(names: Iterable[str]) -> str:
    """ " of 2 groups (A, B)"; nothing where no group is known."""
    known = sorted(set(names))
    if not known:
        return ""
    named = f" ({', '.join(known)})" if len(known) <= FEW_GROUPS else ""
    return f" of {len(known)} group{'s' if len(known) > 1 else ''}{named}"


def few_groups(names: Iterable[str]) -> str:
    """What a promise from photos of few groups does not say, as a further sentence."""
    count = len(set(names))
    if not 0 < count < FEW_GROUPS:
        return ""
    those = "this one group" if count == 1 else f"these {count} groups"
    return f" It is a promise about photos like those of {those}; other lots may differ."


def photos_needed(config: CalibrationConfig) -> int:
    """The smallest number of calibration photos that supports `config`."""
    if config.guarantee == "marginal":
        return math.ceil(1 / config.target_fpr - 1e-9) - 1
    return zero_failure_sample_size(config.target_fpr, config.confidence)
