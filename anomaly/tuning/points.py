"""The table of operating points: what is in force, what was asked, and what else there would be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anomaly.errors import CalibrationError
from anomaly.metrics import Bools, Floats
from anomaly.policy.policy import Cut
from anomaly.quality.intervals import exact_share, zero_failure_sample_size
from anomaly.quality.order_statistics import marginal_threshold, promised_failures
from anomaly.quality.thresholds import Costs, OperatingPoint, Rule, choose, counted, cross_fitted

LADDER = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Rates of overkill that the table shows whatever was asked."""


@dataclass(frozen=True)
class Row:
    """One threshold and what it does; `reason` says why there is none, or why figures are missing."""

    wish: str
    fair: OperatingPoint | None = None
    """Counted on photos that did not choose the threshold."""
    optimistic: OperatingPoint | None = None
    """Counted on the photos that chose it."""
    reason: str | None = None

    @property
    def point(self) -> OperatingPoint | None:
        return self.fair or self.optimistic

    @property
    def cut(self) -> Cut | None:
        point = self.point
        return None if point is None else Cut(point.threshold, point.review_threshold)

    def priced(self, costs: Costs | None) -> Row:
        """The same row with what its figures cost."""
        return replace(
            self,
            fair=self.fair and self.fair.priced(costs),
            optimistic=self.optimistic and self.optimistic.priced(costs),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "wish": self.wish,
            "cross_fitted": None if self.fair is None else self.fair.to_dict(),
            "optimistic": None if self.optimistic is None else self.optimistic.to_dict(),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Units:
    """What is counted: photos, or parts with several photos; scores (N,), labels (N,), groups or None."""

    scores: Floats
    anomalous: Bools
    groups: Sequence[str | None] | None

    @classmethod
    def of(
        cls, scores: Sequence[float], anomalous: Sequence[bool], groups: Sequence[str | None], *, parts: bool
    ) -> Units:
        """One unit a photo; with `parts` one a group: it scores as its highest photo does and is anomalous
        where one of them is. Photos without a group are parts of their own."""
        values, labels = np.array(scores, dtype=np.float64), np.array(anomalous, dtype=bool)
        if not parts:
            several = len({group for group in groups if group is not None}) > 1
            return cls(values, labels, list(groups) if several else None)
        highest: dict[object, float] = {}
        bad: dict[object, bool] = {}
        for i, group in enumerate(groups):
            key = ("alone", i) if group is None else group
            highest[key] = max(values[i], highest.get(key, -np.inf))
            bad[key] = bad.get(key, False) or bool(labels[i])
        return cls(np.array([*highest.values()]), np.array([*bad.values()], dtype=bool), None)

    @property
    def n_normal(self) -> int:
        return int((~self.anomalous).sum())

    @property
    def n_anomalous(self) -> int:
        return int(self.anomalous.sum())


def in_force(
    name: str, cuts: Sequence[Cut], pooled: Cut, units: Units, rule: Rule, *, optimistic: bool
) -> Row:
    """What the policy in force does; `cuts` (N,) are those of each unit's group, and `optimistic` tells
    whether these very photos chose it."""
    scores = zip(cuts, units.scores, strict=True)
    decisions = np.array([("normal", "review", "anomalous").index(c.decide(float(s))) for c, s in scores])
    band = (pooled.threshold, pooled.review_threshold)
    sure = rule.confidence or 0.95
    point = counted(band, decisions, units.anomalous, sure, rule.costs, optimistic=optimistic)
    return Row(name, None, point) if optimistic else Row(name, point)


def chosen(wish: str, units: Units, rule: Rule) -> Row:
    """The threshold that `rule` chooses, with cross-fitted figures where the photos allow them."""
    optimistic = choose(units.scores, units.anomalous, rule)
    try:
        fair = cross_fitted(units.scores, units.anomalous, units.groups, rule)
    except CalibrationError as error:
        return Row(wish, None, optimistic, str(error))
    return Row(wish, fair, optimistic)


def from_normal(wish: str, units: Units, rule: Rule) -> Row:
    """The order statistic of normal units alone that promises `rule.max_overkill`; counted, as it must be,
    on the photos that chose it. A review band takes the photos next below."""
    assert rule.max_overkill is not None
    scores = np.sort(units.scores)
    if rule.confidence is None:
        threshold = choose(units.scores, units.anomalous, replace(rule, review_share=None)).threshold
    else:
        allowed = promised_failures("max_overkill", rule.max_overkill, rule.confidence, scores.size, "normal")
        threshold = float(scores[scores.size - 1 - allowed])
    low = None
    if rule.review_share is not None:
        reviews = math.floor(exact_share("review_share", rule.review_share) * scores.size)
        above = int((scores > threshold).sum())
        low = min(float(scores[max(0, scores.size - 1 - above - reviews)]), threshold)
    cut = Cut(threshold, low)
    decisions = np.array(
        [("normal", "review", "anomalous").index(cut.decide(float(s))) for s in units.scores]
    )
    point = counted(
        (threshold, low), decisions, units.anomalous, rule.confidence or 0.95, None, optimistic=True
    )
    return Row(wish, None, point)


def table(units: Units, rule: Rule) -> list[Row]:
    """Other operating points to compare with: each wish alone, and rates of overkill."""
    return [row.priced(rule.costs) for row in _table(units, rule)]


def _table(units: Units, rule: Rule) -> list[Row]:
    rows = []
    if not units.n_anomalous:
        for rate in LADDER:
            promised = replace(rule, max_overkill=rate, max_escape=None, costs=None, zero_escapes=False)
            wish = f"overkill at most {percent(rate)}, promised"
            if rule.confidence is not None:
                needed = zero_failure_sample_size(rate, rule.confidence)
                if units.n_normal < needed:
                    rows.append(Row(wish, reason=f"bring {needed} normal ones"))
                    continue
            rows.append(_try(wish, from_normal, units, promised))
        if rule.max_overkill is not None:
            rows.append(_marginal(units, rule.max_overkill, rule.confidence or 0.95))
        return rows
    alone = singles(rule)
    if len(alone) > 1:
        rows += [_try(f"{describe(single)}, alone", chosen, units, single) for single in alone]
    observed = Rule(zero_escapes=True, confidence=None)
    if not rule.zero_escapes:
        rows.append(_try("no escape among these", chosen, units, observed))
    for rate in LADDER if units.n_normal else ():
        looked = Rule(max_overkill=rate, confidence=None)
        rows.append(_try(f"overkill at most {percent(rate)} of these", chosen, units, looked))
    return rows


def singles(rule: Rule) -> list[Rule]:
    """Each wish of `rule` on its own."""
    sure = rule.confidence
    rules = []
    if rule.max_overkill is not None:
        rules.append(Rule(max_overkill=rule.max_overkill, confidence=sure))
    if rule.max_escape is not None:
        rules.append(Rule(max_escape=rule.max_escape, confidence=sure))
    if rule.zero_escapes:
        rules.append(Rule(zero_escapes=True, confidence=sure))
    if rule.costs is not None:
        rules.append(Rule(costs=rule.costs, confidence=sure))
    return rules


def describe(rule: Rule) -> str:
    """What is asked, in words."""
    sure = "" if rule.confidence is None else f" with {percent(rule.confidence)} confidence"
    said = []
    if rule.max_overkill is not None:
        said.append(f"overkill at most {percent(rule.max_overkill)}{sure}")
    if rule.max_escape is not None:
        said.append(f"escapes at most {percent(rule.max_escape)}{sure}")
    if rule.zero_escapes:
        said.append("no escape among these")
    if rule.costs is not None:
        said.append(f"least cost ({rule.costs.words})")
    if rule.review_share is not None:
        said.append(f"up to {percent(rule.review_share)} of the normal ones reviewed")
    return ", ".join(said)


def cheapest(chosen: Row, rows: Sequence[Row]) -> Row | None:
    """The row of least cost among `chosen` and those counted as it was; the first of equal ones."""
    alike = [row for row in (chosen, *rows) if (row.fair is None) == (chosen.fair is None)]
    priced = [(row.point.cost_per_1000, row) for row in alike if row.point is not None]
    known = [(cost, row) for cost, row in priced if cost is not None]
    return min(known, key=lambda one: one[0])[1] if known else None


def cost_words(point: OperatingPoint) -> str:
    """ "273 (120 to 460)" """
    if point.cost_per_1000 is None or point.cost_interval is None:
        return "unknown"
    low, high = point.cost_interval
    return f"{point.cost_per_1000:.4g} ({low:.3g} to {high:.3g})"


def percent(rate: float) -> str:
    return f"{100 * rate:.6g} %"


def _marginal(units: Units, rate: float, confidence: float) -> Row:
    wish = f"overkill at most {percent(rate)} on average (conformal)"
    try:
        threshold = marginal_threshold(units.scores, rate)
    except CalibrationError:
        return Row(wish, reason=f"bring {math.ceil(1 / exact_share('target_fpr', rate)) - 1} normal ones")
    decisions = 2 * (units.scores > threshold).astype(np.int64)
    return Row(
        wish, None, counted((threshold, None), decisions, units.anomalous, confidence, None, optimistic=True)
    )


def _try(wish: str, make: Any, units: Units, rule: Rule) -> Row:
    try:
        row: Row = make(wish, units, rule)
    except CalibrationError as error:
        return Row(wish, reason=str(error))
    return row
