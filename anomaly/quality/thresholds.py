"""Operating points on labelled photos: what thresholds do, and which one follows a wish.

Higher scores are more anomalous; a photo is anomalous if and only if score > threshold, compared in float64.
A normal photo called anomalous is an overkill, an anomalous one called normal an escape. With a review band,
scores above `review_threshold` up to `threshold` are looked at by people and count as neither.
Every guarantee assumes that the photos are drawn independently from what the line will see: count parts,
not repeated shots of one part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anomaly.errors import CalibrationError, ConfigError
from anomaly.metrics import Bools, Floats, as_groups, as_labelled
from anomaly.quality.intervals import clopper_pearson, exact_share
from anomaly.quality.order_statistics import promised_failures


@dataclass(frozen=True, slots=True)
class Costs:
    """What a wrong decision costs, in any one currency, and how many parts are defective."""

    escape_cost: float
    overkill_cost: float
    defect_rate: float

    def __post_init__(self) -> None:
        for name in ("escape_cost", "overkill_cost"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        exact_share("defect_rate", self.defect_rate)

    def per_1000(self, escape_rate: npt.ArrayLike, overkill_rate: npt.ArrayLike) -> Floats:
        """Expected cost of 1000 parts from the line."""
        escapes = self.defect_rate * np.asarray(escape_rate, dtype=float) * self.escape_cost
        overkills = (1 - self.defect_rate) * np.asarray(overkill_rate, dtype=float) * self.overkill_cost
        return np.asarray(1000 * (escapes + overkills), dtype=np.float64)

    @property
    def words(self) -> str:
        """All three numbers."""
        return (
            f"an escape costs {self.escape_cost:g}, an overkill costs {self.overkill_cost:g}, "
            f"{100 * self.defect_rate:.6g} % of parts are defective"
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of a threshold, alone or combined; `choose` says how ties of wishes are broken.

    With a `confidence`, `max_overkill` and `max_escape` are promises about photos to come (each holds with
    that confidence); with None they bound what was observed, and promise nothing.
    """

    max_overkill: float | None = None
    max_escape: float | None = None
    zero_escapes: bool = False
    """No escape among the labelled photos. What that promises is the upper end of the escape interval."""
    costs: Costs | None = None
    review_share: float | None = None
    """Largest share of the normal photos at hand that people look at, in a band below the threshold."""
    confidence: float | None = 0.95

    def __post_init__(self) -> None:
        for name in ("max_overkill", "max_escape", "review_share", "confidence"):
            if getattr(self, name) is not None:
                exact_share(name, getattr(self, name))
        wishes = (self.max_overkill, self.max_escape, self.costs, self.zero_escapes or None)
        if all(wish is None for wish in wishes):
            raise ConfigError(
                "a threshold needs a wish to follow: give max_overkill, max_escape, zero_escapes or costs"
            )


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a threshold does to labelled photos. A rate without photos is None, its interval (0, 1)."""

    threshold: float
    review_threshold: float | None
    """Lower end of the review band, None without one."""
    n_normal: int
    n_anomalous: int
    overkills: int
    escapes: int
    normal_reviews: int
    anomalous_reviews: int
    overkill_rate: float | None
    escape_rate: float | None
    overkill_interval: tuple[float, float]
    """Exact, two-sided, at `confidence`."""
    escape_interval: tuple[float, float]
    confidence: float
    cost_per_1000: float | None
    """Expected cost of 1000 parts, None without costs or without photos of both labels."""
    optimistic: bool
    """The photos that were counted also chose the threshold."""
    cost_interval: tuple[float, float] | None = None
    """At `confidence`, from those of the two rates (Zou and Donner, Statistics in Medicine 2008)."""

    def priced(self, costs: Costs | None) -> OperatingPoint:
        """The same figures with what they cost."""
        if costs is None or self.escape_rate is None or self.overkill_rate is None:
            return replace(self, cost_per_1000=None, cost_interval=None)
        cost = float(costs.per_1000(self.escape_rate, self.overkill_rate))
        ends = zip(self.escape_interval, self.overkill_interval, strict=True)
        low, high = (
            math.hypot(
                costs.per_1000(escape - self.escape_rate, 0), costs.per_1000(0, overkill - self.overkill_rate)
            )
            for escape, overkill in ends
        )
        return replace(self, cost_per_1000=cost, cost_interval=(cost - low, cost + high))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def operating_point(
    threshold: float,
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    review_threshold: float | None = None,
    confidence: float = 0.95,
    costs: Costs | None = None,
    optimistic: bool = False,
) -> OperatingPoint:
    """Escapes and overkills of `threshold` on labelled photos; `labels` are 1 for anomalous."""
    low = threshold if review_threshold is None else review_threshold
    if not -math.inf < low <= threshold < math.inf:
        raise ConfigError(f"thresholds must be finite, review_threshold the lower, got {low} and {threshold}")
    values, anomalous = as_labelled(scores, labels)
    band = (threshold, review_threshold)
    return counted(band, _decisions(values, band), anomalous, confidence, costs, optimistic)


def choose(scores: npt.ArrayLike, labels: npt.ArrayLike, rule: Rule) -> OperatingPoint:
    """The threshold that follows `rule`, midway between two neighbouring scores, and its optimistic figures.

    Among the thresholds that keep every limit: the cheapest if there are costs; else the lowest if overkill
    is limited (what is allowed is spent on catching defects); else the highest. A review band reaches as far
    down as its share allows; overkills then count above it, escapes below it, and reviews cost nothing.
    CalibrationError where the photos are too few for the promise, or where the limits contradict each other.
    """
    values, anomalous = as_labelled(scores, labels)
    band = _band(values, anomalous, rule)
    return counted(
        band, _decisions(values, band), anomalous, rule.confidence or 0.95, rule.costs, optimistic=True
    )


def cross_fitted(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: Sequence[str | None] | None,
    rule: Rule,
    folds: int = 5,
    seed: int = 0,
) -> OperatingPoint:
    """The threshold of `choose` on all photos, with the counts of photos that did not choose.

    Each fold is judged by the threshold that the other folds choose, photos of one group stay together, and
    the counts are summed; they describe the rule on slightly fewer photos than it finally gets. Fewer groups
    than `folds` make as many folds as groups.
    """
    if folds < 2:
        raise ConfigError(f"cross-fitting needs 2 folds or more, got {folds}")
    values, anomalous = as_labelled(scores, labels)
    band = _band(values, anomalous, rule)
    fold_of = _deal(as_groups(groups, values.size), anomalous, folds, seed)
    if not fold_of.any():
        raise CalibrationError(
            "cross-fitting needs photos of 2 groups or more, got 1: add photos of another lot or part"
        )
    decisions = np.zeros(values.size, dtype=int)
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        try:
            chosen = _band(values[~held_out], anomalous[~held_out], rule)
        except CalibrationError as error:
            raise CalibrationError(
                f"cross-fitting holds back one fold of {folds} at a time, and the {(~held_out).sum()} of "
                f"{values.size} photos left do not suffice ({error}); add groups of photos, or raise folds"
            ) from error
        decisions[held_out] = _decisions(values[held_out], chosen)
    return counted(band, decisions, anomalous, rule.confidence or 0.95, rule.costs, optimistic=False)


Band = tuple[float, float | None]
"""(threshold, lower end of the review band or None)."""


def _band(scores: Floats, anomalous: Bools, rule: Rule) -> Band:
    good, bad = np.sort(scores[~anomalous]), np.sort(scores[anomalous])
    _require_labels(good.size, bad.size, rule)
    cuts = _cuts(scores)
    overkills = good.size - np.searchsorted(good, cuts, side="right")
    escapes = np.searchsorted(bad, cuts, side="right")
    lower = np.arange(cuts.size)
    if rule.review_share is not None:
        reviews = math.floor(exact_share("review_share", rule.review_share) * good.size)
        lower = np.searchsorted(-overkills, -(overkills + reviews), side="left")

    most_overkills, most_escapes = good.size, bad.size
    if rule.max_overkill is not None:
        most_overkills = _limit("max_overkill", rule.max_overkill, rule.confidence, good.size, "normal")
    if rule.max_escape is not None:
        most_escapes = _limit("max_escape", rule.max_escape, rule.confidence, bad.size, "anomalous")
    if rule.zero_escapes:
        most_escapes = 0
    few_overkills, few_escapes = overkills <= most_overkills, escapes[lower] <= most_escapes
    kept = np.flatnonzero(few_overkills & few_escapes)
    if not kept.size:
        raise CalibrationError(
            f"no threshold keeps both limits: at most {most_overkills} of {good.size} normal photos above it "
            f"lets {escapes[lower][few_overkills].min()} of {bad.size} anomalous ones escape, at most "
            f"{most_escapes} escapes reject {overkills[few_escapes].min()} normal ones: relax one limit, or "
            f"{'widen' if rule.review_share else 'give'} review_share"
        )
    if rule.costs is not None:
        cost = rule.costs.per_1000(escapes[lower] / bad.size, overkills / good.size)
        best = kept[np.argmin(cost[kept])]
    else:
        best = kept[0] if rule.max_overkill is not None else kept[-1]
    return float(cuts[best]), None if rule.review_share is None else float(cuts[lower[best]])


def _require_labels(n_normal: int, n_anomalous: int, rule: Rule) -> None:
    asks_normal = rule.max_overkill is not None or rule.review_share is not None
    asks_anomalous = rule.max_escape is not None or rule.zero_escapes
    for n, asked, label in ((n_normal, asks_normal, "normal"), (n_anomalous, asks_anomalous, "anomalous")):
        if n == 0 and (asked or rule.costs is not None):
            raise CalibrationError(
                f"the wish needs photos labelled {label}, got none: add some, or ask only for limits on "
                f"{'escapes' if label == 'normal' else 'overkill'}"
            )


def _cuts(scores: Floats) -> Floats:
    """Every threshold that decides differently: below all scores, between neighbours, at the largest."""
    distinct = np.unique(scores)
    middle = distinct[:-1] / 2 + distinct[1:] / 2
    middle = np.where((distinct[:-1] <= middle) & (middle < distinct[1:]), middle, distinct[:-1])
    return np.concatenate([np.nextafter(distinct[:1], -np.inf), middle, distinct[-1:]])


def _decisions(scores: Floats, band: Band) -> npt.NDArray[np.int64]:
    """0 normal, 1 review, 2 anomalous."""
    threshold, review = band
    low = threshold if review is None else review
    return (scores > low).astype(np.int64) + (scores > threshold)


def counted(
    band: Band,
    decisions: npt.NDArray[np.int64],
    anomalous: Bools,
    confidence: float,
    costs: Costs | None,
    optimistic: bool,
) -> OperatingPoint:
    """The figures of `decisions` (N,): 0 normal, 1 review, 2 anomalous."""
    n_bad, n_good = int(anomalous.sum()), int((~anomalous).sum())
    escapes, overkills = int((decisions[anomalous] == 0).sum()), int((decisions[~anomalous] == 2).sum())
    escape_rate = escapes / n_bad if n_bad else None
    overkill_rate = overkills / n_good if n_good else None
    point = OperatingPoint(
        threshold=band[0],
        review_threshold=band[1],
        n_normal=n_good,
        n_anomalous=n_bad,
        overkills=overkills,
        escapes=escapes,
        normal_reviews=int((decisions[~anomalous] == 1).sum()),
        anomalous_reviews=int((decisions[anomalous] == 1).sum()),
        overkill_rate=overkill_rate,
        escape_rate=escape_rate,
        overkill_interval=clopper_pearson(overkills, n_good, confidence),
        escape_interval=clopper_pearson(escapes, n_bad, confidence),
        confidence=confidence,
        cost_per_1000=None,
        optimistic=optimistic,
    )
    return point.priced(costs)


def _deal(groups: npt.NDArray[np.int64], anomalous: Bools, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Fold of each photo. Groups are shuffled and dealt in turn, those with anomalous photos only first,
    then mixed ones, then normal ones: so each label is missing from the rest of a fold only if it must."""
    n_groups = int(groups.max()) + 1
    n_bad, n_all = np.bincount(groups, anomalous, n_groups), np.bincount(groups, minlength=n_groups)
    kind = (n_bad < n_all).astype(int) + (n_bad == 0)
    shuffled = np.random.default_rng(seed).permutation(n_groups)
    fold_of_group = np.empty(n_groups, dtype=np.int64)
    fold_of_group[shuffled[np.argsort(kind[shuffled], kind="stable")]] = np.arange(n_groups) % folds
    return fold_of_group[groups]


def _limit(name: str, rate: float, confidence: float | None, n: int, label: str) -> int:
    """Largest count among `n` that keeps `rate`: promised with `confidence`, or observed without one."""
    if confidence is None:
        return math.floor(exact_share(name, rate) * n)
    return promised_failures(name, rate, confidence, n, label)
