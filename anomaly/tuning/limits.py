"""What photos cannot support, and what may be promised, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from anomaly.calibration import few_groups, of_groups
from anomaly.metrics import image_auroc
from anomaly.quality.intervals import allowed_failures, upper_bound, zero_failure_sample_size
from anomaly.quality.order_statistics import rounded_up, smallest_promise
from anomaly.quality.thresholds import Rule
from anomaly.tuning.points import Row, Units, cheapest, cost_words, percent
from anomaly.tuning.scores import Photos

CLAIM_CONFIDENCE = 0.95


def promise(units: Units, rule: Rule, photos: Photos, *, parts: bool) -> str:
    """What may be said of a threshold that follows `rule`."""
    unit = "parts" if parts else "photos"
    groups = {
        anomalous: ()
        if parts
        else {row.group for row in photos.rows if row.group and row.anomalous is anomalous}
        for anomalous in (False, True)
    }
    if rule.confidence is None:
        return f"Chosen on {units.scores.size} {unit}: the limits hold for these, and nothing is promised."
    sure = f"with {percent(rule.confidence)} confidence"
    said = []
    if rule.max_overkill is not None:
        said.append(
            f"At most {percent(rule.max_overkill)} of normal {unit} like the {units.n_normal}"
            f"{of_groups(groups[False])} that chose the threshold are called anomalous, {sure}."
            f"{few_groups(groups[False])}"
        )
    if rule.max_escape is not None:
        said.append(
            f"At most {percent(rule.max_escape)} of anomalous {unit} like the {units.n_anomalous} at hand"
            f"{of_groups(groups[True])} pass, {sure}.{few_groups(groups[True])}"
        )
    if rule.zero_escapes:
        bound = smallest_promise(units.n_anomalous, rule.confidence)
        said.append(
            f"None of the {units.n_anomalous} anomalous {unit} at hand{of_groups(groups[True])} passes: of "
            f"others like them at most {_up(bound)} do, {sure}.{few_groups(groups[True])}"
        )
    if rule.costs is not None and not said:
        said.append(
            f"The cheapest threshold for the {units.scores.size} {unit} at hand ({rule.costs.words}); "
            "nothing is promised."
        )
    return " ".join(said)


def limits(
    units: Units,
    photos: Photos,
    rule: Rule,
    chosen: Row,
    rows: Sequence[Row],
    groups: Mapping[str, Row],
    *,
    parts: bool,
) -> list[str]:
    """What the photos cannot support or do not show."""
    unit = "parts" if parts else "photos"
    confidence = rule.confidence or CLAIM_CONFIDENCE
    said = []
    kinds = [("normal", units.n_normal, "overkill", rule.max_overkill)]
    if units.n_anomalous:
        kinds.append(("anomalous", units.n_anomalous, "escape rate", rule.max_escape))
    for label, n, rate, asked in kinds:
        said.append(_smallest(n, f"{label} {unit}", rate, asked, confidence))
    if not units.n_anomalous:
        said.append("Nothing is known of escapes: there are no photos labelled anomalous.")
    if not units.n_normal:
        said.append("Nothing is known of overkill: there are no photos labelled normal.")
    named, mixed = len(photos.groups), len(photos.mixed_groups)
    if named > 1 and not parts and not groups:
        text = f"The photos come from {named} groups. A promise counts each photo as a part of its own"
        if 2 * mixed > named:  # lots, for a part is good or bad
            said.append(f"{text}; photos of one lot may be more alike, and then it is less sure.")
        else:
            said.append(f"{text}: if a group is one part photographed several times, use --count-parts.")
    if parts and mixed:
        said.append(
            f"{mixed} of {named} groups hold normal and anomalous photos and count as anomalous parts: "
            "groups must be parts, not lots."
        )
    if rule.max_overkill is not None and rule.max_escape is not None and rule.confidence is not None:
        both = max(0.0, 1 - 2 * (1 - rule.confidence))
        said.append(
            f"Each limit holds with {percent(rule.confidence)} confidence, both with {percent(both)}."
        )
    with_own = [row for row in groups.values() if row.cut is not None]
    if len(with_own) > 1 and rule.confidence is not None:
        said.append(
            f"Each of the {len(with_own)} groups has a promise of its own: that all hold is less sure."
        )
    if chosen.optimistic is not None and chosen.fair is None:
        reason = f" ({chosen.reason})" if chosen.reason else ""
        said.append(
            f"The counts of the chosen threshold are optimistic: the same {unit} chose it{reason}. A promise "
            "made with confidence takes that into account."
        )
    least = cheapest(chosen, rows)
    if rule.costs is not None and least is not None and chosen.point is not None:
        said.append(_least_cost(chosen, least))
    if photos.duplicates:
        said.append(f"{photos.duplicates} photos are copies of others: each content counts once.")
    if photos.unreadable:
        said.append(f"{len(photos.unreadable)} photos could not be used and are left out.")
    auroc = image_auroc(units.scores, units.anomalous)
    if units.scores.min() == units.scores.max():
        said.append("All scores are the same: no threshold tells these photos apart.")
    elif auroc is not None and auroc <= 0.5:
        said.append(
            f"Anomalous {unit} do not score higher than normal ones (AUROC {auroc:.2f}): check whether "
            "labels are swapped, and whether this is the model of this product."
        )
    return said


def _least_cost(chosen: Row, least: Row) -> str:
    """Whether another row is cheaper than the chosen one, counted alike."""
    ours, other = chosen.point, least.point
    assert ours is not None and other is not None
    kind = "on the photos that chose" if chosen.fair is None else "on photos that did not choose"
    text = f"Counted {kind}, 1000 parts cost {cost_words(ours)} at the threshold as asked"
    if chosen.fair is not None and chosen.optimistic is not None:
        text += f" ({cost_words(chosen.optimistic)} on those that did)"
    if least is chosen or ours.cost_interval is None or other.cost_interval is None:
        return f"{text}: no other row costs less."
    text += f" and {cost_words(other)} at {other.threshold:.6g} ({least.wish})"
    if other.cost_interval[1] < ours.cost_interval[0]:
        return f"{text}: ask for what that row keeps."
    return f"{text}: the intervals overlap, so these photos do not tell which is cheaper."


def _smallest(n: int, what: str, rate: str, asked: float | None, confidence: float) -> str:
    """ "60 normal parts: the smallest overkill that you can promise is 4.9 %; for 1 % bring 299." """
    if not n:
        return f"0 {what}: no {rate} can be promised."
    least = _up(smallest_promise(n, confidence))
    sure = f"with {percent(confidence)} confidence"
    text = f"{n} {what}: the smallest {rate} that you can promise {sure} is {least}"
    if asked is not None:
        allowed = allowed_failures(n, asked, confidence)
        if allowed < 0:
            return f"{text}; for {percent(asked)} bring {zero_failure_sample_size(asked, confidence)}."
        if allowed:
            worst = _up(upper_bound(allowed, n, confidence))
            return f"{text}; {percent(asked)} allows {allowed} of them to fail (bound {worst})."
    return f"{text}."


def _up(rate: float) -> str:
    """A rate in percent, never rounded down."""
    if not 0 < rate < 1:
        return percent(rate)
    return f"{100 * float(rounded_up(Fraction(rate))):.6g} %"
