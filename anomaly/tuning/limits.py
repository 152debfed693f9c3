"""What photos cannot support, and what may be promised, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from anomaly.metrics import image_auroc
from anomaly.quality.intervals import allowed_failures, upper_bound, zero_failure_sample_size
from anomaly.quality.order_statistics import rounded_up, smallest_promise
from anomaly.quality.thresholds import Rule
from anomaly.tuning.points import Row, Units, percent
from anomaly.tuning.scores import Photos

CLAIM_CONFIDENCE = 0.95


def promise(units: Units, rule: Rule, unit: str) -> str:
    """What may be said of a threshold that follows `rule`."""
    if rule.confidence is None:
        return f"Chosen on {units.scores.size} {unit}: the limits hold for these, and nothing is promised."
    sure = f"with {percent(rule.confidence)} confidence"
    said = []
    if rule.max_overkill is not None:
        said.append(
            f"At most {percent(rule.max_overkill)} of normal {unit} like the {units.n_normal} that chose the "
            f"threshold are called anomalous, {sure}."
        )
    if rule.max_escape is not None:
        said.append(
            f"At most {percent(rule.max_escape)} of anomalous {unit} like the {units.n_anomalous} at hand "
            f"pass, {sure}."
        )
    if rule.zero_escapes:
        bound = smallest_promise(units.n_anomalous, rule.confidence)
        said.append(
            f"None of the {units.n_anomalous} anomalous {unit} at hand passes: of others like them at most "
            f"{_up(bound)} do, {sure}."
        )
    if rule.costs is not None and not said:
        said.append(
            f"The cheapest threshold for the {units.scores.size} {unit} at hand; nothing is promised."
        )
    return " ".join(said)


def limits(
    units: Units, photos: Photos, rule: Rule, chosen: Row, groups: Mapping[str, Row], *, parts: bool
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
    named = len({row.group for row in photos.rows} - {None})
    if named > 1 and not parts and not groups:
        said.append(
            f"The photos come from {named} groups. A promise counts each photo as a part of its own: if a "
            "group is one part photographed several times, use --count-parts."
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
