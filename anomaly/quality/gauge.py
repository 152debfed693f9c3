"""The inspection system as an appraiser: repeated photos of the same parts, judged and scored.

Decisions: effectiveness, miss rate and false-alarm rate against the limits of AIAG; Cohen's kappa against
the reference and Fleiss' kappa between repeats (see `agreement`); Knapp's test (USP <1790>). Scores: one-way
random-effects analysis of variance. A part is the unit of evidence: every interval counts parts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy import stats

from anomaly.errors import ConfigError, DataError
from anomaly.quality.agreement import (
    LIMITS,
    SKEWED,
    Kappa,
    Part,
    Rate,
    cohen_kappa,
    fleiss_kappa,
    share_of,
)

FEWEST_PARTS = 50
IN_DOUBT = 3.0
"""A part whose mean score lies within so many repeatability standard deviations of the threshold can flip."""
KNAPP_LOOKS = 30
"""Knapp's protocol: three inspectors, ten looks each."""


@dataclass(frozen=True)
class ScoreRepeatability:
    """One-way random-effects analysis of variance of the scores. In an interval, None is no bound."""

    within_sd: float
    """Repeatability: pooled standard deviation of the photos of one part."""
    within_interval: tuple[float, float]
    between_sd: float | None
    """Of parts, with repeatability taken out; None for one part."""
    ratio: float | None
    """within_sd / between_sd; None where parts differ no more than their photos do."""
    ratio_interval: tuple[float | None, float | None]
    """Exact for equal numbers of photos, by the F distribution."""
    margins: dict[str, float] | None
    """Per part, (mean score - threshold) / within_sd; None without a threshold or a within_sd above 0."""
    in_doubt: tuple[str, ...]
    """Parts with a margin of less than IN_DOUBT on either side."""


@dataclass(frozen=True)
class Knapp:
    """Parts by their rejection rate: accept zone up to 0.3, reject zone from 0.7, grey zone between.

    With a manual detection matrix the zones are the manual ones, and the system passes when it rejects the
    parts of the reject zone at least as often as people do.
    """

    reject_zone: tuple[str, ...]
    grey_zone: tuple[str, ...]
    accept_zone: tuple[str, ...]
    manual: bool
    defective_in_reject_zone: Rate | None
    automated_efficiency: float | None
    """Mean rejection rate over the reject zone; this and the rest None without a manual matrix or a zone."""
    manual_efficiency: float | None
    difference_interval: tuple[float, float] | None
    """Of automated - manual efficiency, Student's t over parts; None for one part."""
    passed: bool | None


@dataclass(frozen=True)
class GaugeStudy:
    """What repeated photos say of the system; None where they cannot, and `warnings` says why."""

    parts: int
    photos: tuple[int, int]
    """Fewest and most of one part."""
    confidence: float
    alike: Rate | None
    """Parts that were judged alike every time."""
    effectiveness: Rate | None
    """Parts that were judged right every time."""
    miss_rate: Rate | None
    """Photos of defective parts that were passed."""
    false_alarm_rate: Rate | None
    """Photos of good parts that were rejected."""
    kappa_reference: Kappa | None
    """Cohen's, of all decisions and the reference."""
    kappa_repeats: Kappa | None
    """Fleiss', between the photos of a part."""
    scores: ScoreRepeatability | None
    knapp: Knapp
    warnings: tuple[str, ...]


def gauge_study(
    parts: Sequence[Part], *, threshold: float | None = None, confidence: float = 0.95
) -> GaugeStudy:
    """Repeatability and correctness of decisions and of scores, whose `threshold` may be given; that of a
    part itself comes first."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence:g}: 0.95 is usual")
    _check(parts)
    alpha = 1 - confidence
    known = [p for p in parts if p.defective is not None]
    bad, good = [p for p in known if p.defective], [p for p in known if not p.defective]
    repeated = [p for p in parts if len(p.rejected) > 1]
    counts = [len(p.rejected) for p in parts]
    study = GaugeStudy(
        parts=len(parts),
        photos=(min(counts), max(counts)),
        confidence=confidence,
        alike=share_of([[len(set(p.rejected)) == 1] for p in repeated], alpha),
        effectiveness=share_of([[set(p.rejected) == {p.defective}] for p in known], alpha, "effectiveness"),
        miss_rate=share_of([[not r for r in p.rejected] for p in bad], alpha, "miss rate"),
        false_alarm_rate=share_of([p.rejected for p in good], alpha, "false-alarm rate"),
        kappa_reference=cohen_kappa(known, alpha) if bad and good else None,
        kappa_repeats=fleiss_kappa(repeated, alpha),
        scores=_score_repeatability(parts, threshold, alpha),
        knapp=_knapp(parts, alpha),
        warnings=(),
    )
    return replace(study, warnings=tuple(_warnings(study, parts)))


def _check(parts: Sequence[Part]) -> None:
    if not parts:
        raise DataError("a gauge study needs parts, got none: photograph about 50 parts 3 times each")
    for name, count in Counter(p.name for p in parts).items():
        if count > 1:
            raise DataError(f"part {name!r} is listed {count} times: put all its photos in one entry")
    for part in parts:
        name, photos, scores, looks = part.name, len(part.rejected), len(part.scores), part.manual
        if not photos:
            raise DataError(f"part {name!r} has no decisions: inspect its photos, or leave it out")
        if bool(scores) != bool(len(parts[0].scores)) or scores not in (0, photos):
            raise DataError(
                f"part {name!r} has {scores} scores for {photos} decisions: give one for each decision of "
                "every part, or none at all"
            )
        if not np.all(np.isfinite(np.asarray(part.scores, dtype=float))):
            raise DataError(f"part {name!r} has a score that is not a number: leave that photo out")
        if looks is not None and not (0 <= looks[0] <= looks[1] and looks[1] > 0):
            raise DataError(
                f"part {name!r} has {looks[0]} rejections in {looks[1]} looks by people: give (rejections, "
                "looks), at least one look"
            )


def _score_repeatability(
    parts: Sequence[Part], threshold: float | None, alpha: float
) -> ScoreRepeatability | None:
    scores = [np.asarray(p.scores, dtype=float) for p in parts]
    k, total = len(parts), sum(map(len, scores))
    if total <= k:
        return None
    counts = np.array([len(s) for s in scores])
    means = np.array([s.mean() if np.ptp(s) > 0 else s[0] for s in scores])
    squares = float(sum(np.sum((s - m) ** 2) for s, m in zip(scores, means, strict=True)))
    freedom = total - k
    within = squares / freedom
    tails = np.array([1 - alpha / 2, alpha / 2])
    low, high = np.sqrt(squares / stats.chi2.ppf(tails, freedom))

    between: float | None = None
    ratio: float | None = None
    spread: Sequence[float] = (0.0, 0.0)  # upper and lower bound of between_sd ** 2
    if k > 1:
        grand = np.sum(counts * means) / total
        each = (total - np.sum(counts**2) / total) / (k - 1)
        among = float(np.sum(counts * (means - grand) ** 2) / (k - 1)) if np.ptp(means) > 0 else 0.0
        between = float(np.sqrt(max((among - within) / each, 0)))
        ratio = float(np.sqrt(within)) / between if between else None
        spread = (among / stats.f.ppf(tails[::-1], k - 1, freedom) - within) / each
    smallest, largest = (float(np.sqrt(within / s)) if s > 0 else None for s in spread)
    margins = None
    if threshold is not None and within > 0:
        limits = np.array([threshold if p.threshold is None else p.threshold for p in parts])
        ratios = (means - limits) / np.sqrt(within)
        margins = dict(zip((p.name for p in parts), ratios.tolist(), strict=True))
    return ScoreRepeatability(
        within_sd=float(np.sqrt(within)),
        within_interval=(float(low), float(high)),
        between_sd=between,
        ratio=ratio,
        ratio_interval=(smallest, largest),
        margins=margins,
        in_doubt=tuple(name for name, margin in (margins or {}).items() if abs(margin) < IN_DOUBT),
    )


def _knapp(parts: Sequence[Part], alpha: float) -> Knapp:
    automated = {p.name: Fraction(sum(map(bool, p.rejected)), len(p.rejected)) for p in parts}
    by_people = {p.name: Fraction(*p.manual) for p in parts if p.manual is not None}
    rates = by_people or automated
    reject = tuple(name for name, rate in rates.items() if rate >= Fraction(7, 10))
    accept = tuple(name for name, rate in rates.items() if rate <= Fraction(3, 10))
    grey = tuple(name for name, rate in rates.items() if Fraction(3, 10) < rate < Fraction(7, 10))
    found = share_of([[automated[p.name] >= Fraction(7, 10)] for p in parts if p.defective], alpha)
    if not (by_people and reject):
        return Knapp(reject, grey, accept, bool(by_people), found, None, None, None, None)
    ours, theirs = (sum(r[name] for name in reject) / len(reject) for r in (automated, by_people))
    interval = None
    if len(reject) > 1:
        differences = np.array([float(automated[name] - by_people[name]) for name in reject])
        half = stats.t.ppf(1 - alpha / 2, len(reject) - 1) * stats.sem(differences)
        interval = float(differences.mean() - half), float(differences.mean() + half)
    passed = bool(ours >= theirs)
    return Knapp(reject, grey, accept, True, found, float(ours), float(theirs), interval, passed)


def _warnings(study: GaugeStudy, parts: Sequence[Part]) -> Iterator[str]:
    if study.parts < FEWEST_PARTS:
        yield f"{study.parts} parts are few: AIAG takes about {FEWEST_PARTS}; look at the intervals."
    once = sum(len(p.rejected) == 1 for p in parts)
    if once:
        yield f"{once} of {study.parts} parts have one photo, which says nothing about repeatability: take 3."
    yield from _warnings_on_reference(study, parts)
    yield from _warnings_on_kappa(study, parts)
    if study.scores is not None:
        yield from _warnings_on_scores(study.scores)
    if study.knapp.manual and not study.knapp.reject_zone:
        yield "People reject no part 7 times in 10, so Knapp's test has no reject zone: add clearer defects."
    looks = min((p.manual[1] for p in parts if p.manual is not None), default=KNAPP_LOOKS)
    if looks < KNAPP_LOOKS:
        yield f"People looked {looks} times at a part: Knapp takes {KNAPP_LOOKS}, 10 by each of 3 inspectors."


def _warnings_on_kappa(study: GaugeStudy, parts: Sequence[Part]) -> Iterator[str]:
    decisions = {bool(r) for p in parts for r in p.rejected}
    if len(decisions) == 1:
        word = "rejected" if decisions == {True} else "passed"
        yield f"Every photo was {word}, so there is no kappa between repeats: add parts near the limit."
    pairs = ((study.kappa_reference, "with the reference"), (study.kappa_repeats, "between repeats"))
    for kappa, of in pairs:
        if kappa is not None and kappa.skewed and kappa.verdict != "good":
            yield (
                f"Kappa {of} is {kappa.value:.2f} although {kappa.agreement:.1%} agree: one side is rarer "
                f"than {SKEWED:.0%}, which deflates kappa. Go by the agreement, or balance the parts."
            )
        if kappa is not None and kappa.lower is None:
            yield (
                f"Kappa {of} has no interval: nothing disagrees, all decisions are the same, or one part is "
                "left; bring more parts."
            )


def _warnings_on_scores(scores: ScoreRepeatability) -> Iterator[str]:
    if scores.within_sd == 0:
        yield "All photos of a part score alike. Copies of one photo measure nothing: place each part anew."
    if scores.between_sd is not None and scores.ratio is None:
        yield "Scores of different parts differ no more than those of one part: they tell no parts apart."
    if scores.in_doubt:
        more = " ..." if len(scores.in_doubt) > 5 else ""
        yield (
            f"{len(scores.in_doubt)} parts score within {IN_DOUBT:g} repeatability standard deviations of "
            f"the threshold and may be judged either way: {', '.join(scores.in_doubt[:5])}{more}."
        )


def _warnings_on_reference(study: GaugeStudy, parts: Sequence[Part]) -> Iterator[str]:
    unknown = sum(p.defective is None for p in parts)
    if unknown == study.parts:
        yield "No part has a reference, so no decision can be called right: let experts agree on each part."
        return
    if unknown:
        yield f"{unknown} parts have no reference and count for repeatability alone."
    if study.miss_rate is None:
        yield "No part is known to be defective, so there is no miss rate and no kappa: add defective parts."
    if study.false_alarm_rate is None:
        yield "No part is known to be good, so there is no false-alarm rate and no kappa: add good parts."
    rates = (study.effectiveness, study.miss_rate, study.false_alarm_rate)
    for (name, limits), rate in zip(LIMITS.items(), rates, strict=True):
        if rate is None or rate.verdict != "acceptable" or rate.verdict_at_bound == "acceptable":
            continue
        bound = rate.lower if name == "effectiveness" else rate.upper
        limit = 1 - limits[0] if name == "effectiveness" else limits[0]
        needed = math.ceil(math.log((1 - study.confidence) / 2) / math.log1p(-limit))
        yield (
            f"The {name} is {rate.value:.1%} on {rate.parts} parts, which also fits {bound:.1%} "
            f"({rate.verdict_at_bound}): to show that it is acceptable takes {needed} parts without an error."
        )
