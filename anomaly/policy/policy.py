"""What decides: a threshold, a review band below it, thresholds of groups, and rules for regions.

A score above the threshold is anomalous; one in the band (review_threshold, threshold] is for people to look
at; the rest is normal. Scores are compared in float64. A policy never touches what a model scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anomaly.calibration import Calibration
from anomaly.data.window import Window
from anomaly.errors import ConfigError
from anomaly.maps import Map
from anomaly.metrics import Floats
from anomaly.policy.regions import RegionRules
from anomaly.quality.order_statistics import conformal_p_values
from anomaly.records import Decision


@dataclass(frozen=True, slots=True)
class Cut:
    """Where scores are cut. Without a band `review_threshold` is None."""

    threshold: float
    review_threshold: float | None = None

    def __post_init__(self) -> None:
        if not -math.inf < self.lowest <= self.threshold < math.inf:
            raise ConfigError(
                "thresholds must be finite, review_threshold the lower, "
                f"got {self.lowest} and {self.threshold}"
            )

    @property
    def lowest(self) -> float:
        """The score above which a photo does not pass."""
        return self.threshold if self.review_threshold is None else self.review_threshold

    def decide(self, score: float) -> Decision:
        """`score` is finite."""
        if score > self.threshold:
            return "anomalous"
        return "review" if score > self.lowest else "normal"


@dataclass(frozen=True)
class Policy:
    """One version of what decides; version 0 is what the model was born with."""

    cut: Cut
    """For photos without a group, and for groups that have no cut of their own."""
    promise: str
    """What may be said of the threshold, in words."""
    normal_scores: Floats
    """Sorted scores of normal photos, under `rules`: what p-values are taken among."""
    groups: Mapping[str, Cut] = field(default_factory=dict)
    rules: RegionRules | None = None
    version: int = 0

    @classmethod
    def born(cls, calibration: Calibration) -> Policy:
        """Version 0: the threshold of the fit."""
        return cls(Cut(calibration.threshold), calibration.guarantee, calibration.scores)

    @property
    def has_review(self) -> bool:
        return any(cut.review_threshold is not None for cut in (self.cut, *self.groups.values()))

    def cut_of(self, group: str | None) -> Cut:
        """The cut for photos of `group`; the pooled one where it has none of its own."""
        return self.cut if group is None else self.groups.get(group, self.cut)

    def score(
        self,
        image_score: float,
        anomaly_map: Map,
        size: tuple[int, int],
        top_share: float,
        window: Window | None = None,
    ) -> float:
        """What is held against the threshold: `image_score`, or where there are rules what they leave of
        the map of patches (h, w) of a photo of `size` (H, W), or of the `window` of it that is judged. Raises
        ImageError where a drawn mask does not fit the photo."""
        if self.rules is None:
            return image_score
        return self.rules.score(anomaly_map, size, top_share, window)

    def seen(self, anomaly_map: Map) -> Map:
        """An anomaly map of the photo's own size, with minus infinity where rules say not to look."""
        if self.rules is None or self.rules.mask is None:
            return anomaly_map
        inside = self.rules.inside(anomaly_map.shape, anomaly_map.shape)
        return np.where(inside, anomaly_map, np.float32(-np.inf))

    def p_value(self, score: float) -> float:
        """Share of the known normal photos, this one counted among them, that score at least `score`."""
        return float(conformal_p_values(self.normal_scores, [score])[0])

    def values(self) -> dict[str, Any]:
        """What decides, as JSON values; masks and scores are kept beside the log."""
        return {
            "threshold": self.cut.threshold,
            "review_threshold": self.cut.review_threshold,
            "groups": {
                name: {"threshold": cut.threshold, "review_threshold": cut.review_threshold}
                for name, cut in sorted(self.groups.items())
            },
            "promise": self.promise,
        }

    @classmethod
    def of_values(
        cls, values: Mapping[str, Any], normal_scores: Floats, rules: RegionRules | None, version: int
    ) -> Policy:
        """The policy that `values` was made of. KeyError, TypeError or ConfigError for anything else."""
        groups = {name: Cut(c["threshold"], c["review_threshold"]) for name, c in values["groups"].items()}
        cut = Cut(values["threshold"], values["review_threshold"])
        return cls(cut, str(values["promise"]), np.sort(normal_scores), groups, rules, version)
