"""The inspection system as an appraiser: repeated photos of the same parts, judged and scored.

Decisions: effectiveness, miss rate and false-alarm rate against the limits of AIAG, Measurement Systems
Analysis (attribute study); Cohen's kappa against the reference and Fleiss' kappa between repeats; Knapp's
test (USP <1790>). Scores: one-way random-effects analysis of variance.

A part is the unit of evidence: photos of one part are not independent, so every interval counts parts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from scipy import special, stats

from anomaly.errors import ConfigError, DataError

Level = Literal["acceptable", "marginal", "unacceptable"]
Verdict = Literal["good", "fair", "poor"]

LIMITS = {"effectiveness": (0.90, 0.80), "miss rate": (0.02, 0.05), "false-alarm rate": (0.05, 0.10)}
"""AIAG: acceptable up to the first limit, marginal up to the second (effectiveness: down to)."""
FEWEST_PARTS = 50
KAPPA_GOOD, KAPPA_POOR = 0.75, 0.40
SKEWED = 0.10
"""With one decision or reference rarer than this, chance agreement is so high that kappa is deflated."""
IN_DOUBT = 3.0
"""A part whose mean score lies within so many repeatability standard deviations of the threshold can flip."""
KNAPP_LOOKS = 30
"""Knapp's protocol: three inspectors, ten looks each."""


@dataclass(frozen=True)
class Part:
    """One part, photographed again and again; True is rejected."""

    name: str
    rejected: Sequence[bool]
    scores: Sequence[float] = ()
    """As many as decisions, or none."""
    defective: bool | None = None
    """The reference; None where unknown."""
    manual: tuple[int, int] | None = None
    """Rejections by people, and their looks."""


@dataclass(frozen=True)
class Rate:
    """`count` of `total` opportunities on `parts` parts. The interval is Clopper and Pearson's for
    value * parts of `parts`: exact where the photos of a part are judged alike, else conservative."""

    count: int
    total: int
    parts: int
    value: float
    lower: float
    upper: float
    verdict: Level | None = None
    """By the AIAG limit, at `value`."""
    verdict_at_bound: Level | None = None
    """At the worse end of the interval: what the number of parts supports."""


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance. No asymptotic interval exists where nothing disagrees or one part is left."""

    value: float
    lower: float | None
    upper: float | None
    agreement: float
    """Observed share of pairs that agree."""
    verdict: Verdict
    skewed: bool
    """One side is so rare that kappa is deflated: go by `agreement`."""


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
    """Repeatability and correctness of decisions and of scores, whose `threshold` may be given."""
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
        alike=_rate([[len(set(p.rejected)) == 1] for p in repeated], alpha),
        effectiveness=_rate([[set(p.rejected) == {p.defective}] for p in known], alpha, "effectiveness"),
        miss_rate=_rate([[not r for r in p.rejected] for p in bad], alpha, "miss rate"),
        false_alarm_rate=_rate([p.rejected for p in good], alpha, "false-alarm rate"),
        kappa_reference=_cohen(known, alpha) if bad and good else None,
        kappa_repeats=_fleiss(repeated, alpha),
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


def _level(name: str, value: float) -> Level:
    acceptable, marginal = LIMITS[name]
    if name == "effectiveness":
        return "acceptable" if value >= acceptable else "marginal" if value >= marginal else "unacceptable"
    return "acceptable" if value <= acceptable else "marginal" if value <= marginal else "unacceptable"


def _rate(events: Sequence[Sequence[bool]], alpha: float, name: str | None = None) -> Rate | None:
    """Share of events, listed by part."""
    if not events:
        return None
    count, total, parts = int(sum(map(sum, events))), sum(map(len, events)), len(events)
    value = count / total
    failures, rest = value * parts, (1 - value) * parts
    lower = float(special.betaincinv(failures, rest + 1, alpha / 2)) if count else 0.0
    upper = float(special.betainccinv(failures + 1, rest, alpha / 2)) if count < total else 1.0
    if name is None:
        return Rate(count, total, parts, value, lower, upper)
    worse = lower if name == "effectiveness" else upper
    return Rate(count, total, parts, value, lower, upper, _level(name, value), _level(name, worse))


def _kappa(value: float, error: float, quantile: float, agreement: float, rarest: float) -> Kappa:
    verdict: Verdict = "good" if value > KAPPA_GOOD else "poor" if value < KAPPA_POOR else "fair"
    lower = upper = None
    if error > 1e-12:
        lower, upper = max(value - quantile * error, -1.0), min(value + quantile * error, 1.0)
    return Kappa(value, lower, upper, agreement, verdict, skewed=rarest < SKEWED)


def _cohen(parts: Sequence[Part], alpha: float) -> Kappa:
    """Large-sample error of Fleiss, Cohen & Everitt, Psychol. Bull. 72 (1969), its linear terms added up by
    part first, as photos of a part are not independent (Yang & Zhou, Stat. Med. 33 (2014))."""
    index = np.repeat(np.arange(len(parts)), [len(p.rejected) for p in parts])
    decision = np.concatenate([np.asarray(p.rejected, dtype=float) for p in parts])
    reference = np.array([float(bool(p.defective)) for p in parts])[index]
    rejected, defective = decision.mean(), reference.mean()
    agrees = decision == reference
    observed, chance = agrees.mean(), rejected * defective + (1 - rejected) * (1 - defective)
    value = (observed - chance) / (1 - chance)
    expected = np.where(reference == 1, rejected, 1 - rejected)
    expected = expected + np.where(decision == 1, defective, 1 - defective)
    linear = (agrees - observed - (1 - value) * (expected - 2 * chance)) / (1 - chance)
    error = np.sqrt(np.sum(np.bincount(index, weights=linear) ** 2)) / len(decision)
    rarest = min(rejected, 1 - rejected, defective, 1 - defective)
    quantile = float(special.ndtri(1 - alpha / 2))
    return _kappa(float(value), float(error), quantile, float(observed), float(rarest))


def _fleiss(parts: Sequence[Part], alpha: float) -> Kappa | None:
    """Fleiss, Psychol. Bull. 76 (1971), for parts with two photos or more, each with equal weight; the error
    by Gwet, Br. J. Math. Stat. Psychol. 61 (2008), whose sample is the parts."""
    n = len(parts)
    photos = np.array([len(p.rejected) for p in parts], dtype=float)
    share = np.array([sum(p.rejected) for p in parts], dtype=float) / np.maximum(photos, 1)
    rejected = float(share.mean()) if n else 0.0
    if rejected in (0.0, 1.0):
        return None
    agreement = 1 - 2 * share * (1 - share) * photos / (photos - 1)
    chance = rejected**2 + (1 - rejected) ** 2
    value = (agreement.mean() - chance) / (1 - chance)
    expected = rejected * share + (1 - rejected) * (1 - share)
    linear = (agreement - chance - 2 * (1 - value) * (expected - chance)) / (1 - chance)
    error = np.sqrt(np.sum((linear - value) ** 2) / (n * (n - 1))) if n > 1 else 0.0
    quantile = float(stats.t.ppf(1 - alpha / 2, n - 1)) if n > 1 else 0.0
    return _kappa(float(value), float(error), quantile, float(agreement.mean()), min(rejected, 1 - rejected))


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
        ratios = (means - threshold) / np.sqrt(within)
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
    found = _rate([[automated[p.name] >= Fraction(7, 10)] for p in parts if p.defective], alpha)
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
            yield f"Kappa {of} has no interval, as nothing disagrees or one part is left: bring more parts."


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
