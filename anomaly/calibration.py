"""The threshold that a model is born with, and what it promises: from held-out normal photos alone."""

from __future__ import annotations

import math
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
        rate, n = f"{100 * self.config.target_fpr:g} %", len(self.scores)
        if self.config.guarantee == "marginal":
            return (
                f"At most {rate} of normal photos like the {n} calibration photos are called anomalous, "
                "on average over such calibrations; with these very photos it may be more."
            )
        return (
            f"At most {rate} of normal photos like the {n} calibration photos are called anomalous, "
            f"with {100 * self.config.confidence:g} % confidence."
        )


def photos_needed(config: CalibrationConfig) -> int:
    """The smallest number of calibration photos that supports `config`."""
    if config.guarantee == "marginal":
        return math.ceil(1 / config.target_fpr - 1e-9) - 1
    return zero_failure_sample_size(config.target_fpr, config.confidence)
